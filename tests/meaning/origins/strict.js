// An origin on Node's http (strict, or lenient with the argument `lenient`): says each request that it believes to have got.
const http = require('http');
const lenient = process.argv[2] === 'lenient';
const server = http.createServer({ insecureHTTPParser: lenient }, (request, response) => {
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece));
  request.on('error', () => {});
  request.on('end', () => {
    const body = Buffer.concat(pieces).toString('latin1');
    console.log(JSON.stringify({ method: request.method, target: request.url, host: request.headers.host, body }));
    response.writeHead(200, { 'Content-Length': 2 });
    response.end('ok');
  });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
