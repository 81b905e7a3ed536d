"""The contenders: what each is given, so that all put the same bytes on the wire.

Each proxies one plain HTTP/1.1 listener to two endpoints in turns, over kept-alive connections, with one thread. It has three routes,
of which the load takes the last one. The request gains X-Forwarded-For, -Proto, -Host, Via and an id; the response gains Via, the id and
`x-proxy: bench`. (The bare proxy has one route and no ids.) With `tls`, a certificate and its key in
files, the listener speaks TLS 1.2 and 1.3 with HTTP/1.1 and HTTP/2, and sessions are resumed by tickets. Bodies of requests are passed on as
they come.
"""

import os
import subprocess

LOG_JSON = "access_log: {format: json, output: {file: %s}}\n"
RAVELIN_TLS = """    tls: {certificates: [{cert: %s, key: %s}]}
"""
# The bench is one client, with few connections: what is meant for one of many would end it.
RAVELIN_LIMITS = "    limits: {handshakes_per_client: none, connections_per_client: none, requests_per_connection: none}\n"
LOG_NONE = "access_log: {output: none}\n"


class Unable(Exception):
    """A contender that can't take part in a scenario, and why."""


def written(directory, name, text):
    path = os.path.join(directory, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def ravelin(binary, directory, port, endpoints, log, tls, threads=1, hardening=True):
    """Round robin, TCP health checks, `headers` and `request_id`, and all that is on by default."""
    text = f"""threads: {threads}
pid_file: {directory}/ravelin.pid
upgrade_sock: {directory}/upgrade.sock
upstream_keepalive_pool_size: 512
listeners:
  web:
    address: 127.0.0.1:{port}
{RAVELIN_TLS % tls if tls else ""}{RAVELIN_LIMITS}upstreams:
  services:
    endpoints: [{", ".join(endpoints)}]
    balance: round_robin
    health_check: {{tcp: {{interval: 1s}}}}
chains:
  usual:
    - request_id: {{}}
    - headers: {{response: {{set: {{x-proxy: bench}}}}}}
routes:
  assets: {{match: {{hosts: [static.example.com], paths: [/assets/*]}}, filters: [{{use: usual}}], upstream: services}}
  api: {{match: {{paths: [/api/*], methods: [GET, POST]}}, filters: [{{use: usual}}], upstream: services}}
  all: {{filters: [{{use: usual}}], upstream: services}}
"""
    if not hardening:
        text += "hardening: {landlock: false, seccomp: false}\n"
    # Keys that a version does not know yet are left out, and said to be missing.
    optional = LOG_JSON % f"{directory}/access.log" if log else LOG_NONE
    for candidate in (text + optional, text):
        path = written(directory, "ravelin.yaml", candidate)
        checked = subprocess.run([binary, "check", "-c", path], capture_output=True, text=True, check=False)
        if checked.returncode == 0:
            return [binary, "run", "-c", path]
        if log:
            raise Unable("this version writes no access log")
    raise Unable(f"`ravelin check` refuses the configuration:\n{checked.stderr}")


def bare(binary, directory, port, endpoints, log, tls):
    """Pingora and nothing else: `examples/bare_pingora.rs`. It has no access log, and stays the measure where others write one."""
    return [binary, f"127.0.0.1:{port}", *(["--tls", *tls] if tls else []), *endpoints]


def nginx(binary, directory, port, endpoints, log, tls):
    servers = " ".join(f"server {endpoint};" for endpoint in endpoints)
    access_log = f"{directory}/access.log json" if log else "off"
    listen, scheme = f"listen 127.0.0.1:{port};", "http"
    if tls:
        listen, scheme = f"""listen 127.0.0.1:{port} ssl http2; ssl_certificate {tls[0]}; ssl_certificate_key {tls[1]};
    ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:tls:10m;""", "https"
    path = written(directory, "nginx.conf", nginx_main(directory) + f"""
http {{
  log_format json escape=json '{{"time":"$time_iso8601","client":"$remote_addr","method":"$request_method","host":"$host","path":"$uri",'
    '"status":$status,"bytes":$body_bytes_sent,"duration":$request_time,"endpoint":"$upstream_addr","agent":"$http_user_agent"}}';
  access_log {access_log};
  keepalive_requests 1000000000; keepalive_timeout 600s;
  proxy_max_temp_file_size 0; proxy_request_buffering off; client_max_body_size 8m; {nginx_paths(directory)}
  upstream services {{ {servers} keepalive 512; keepalive_requests 1000000000; }}
  proxy_http_version 1.1; proxy_set_header Connection "";
  proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto {scheme};
  proxy_set_header X-Forwarded-Host $http_host; proxy_set_header Via "1.1 nginx"; proxy_set_header X-Request-Id $request_id;
  add_header Via "1.1 nginx" always; add_header x-proxy bench always; add_header X-Request-Id $request_id always;
  server {{
    {listen} server_name static.example.com;
    location /assets/ {{ proxy_pass http://services; }}
    location / {{ proxy_pass http://services; }}
  }}
  server {{
    {listen.replace(";", " default_server;", 1)}
    location /api/ {{ proxy_pass http://services; }}
    location / {{ proxy_pass http://services; }}
  }}
}}
""")
    return [binary, "-p", directory, "-e", f"{directory}/error.log", "-c", path]


def haproxy(binary, directory, port, endpoints, log, tls):
    bind, scheme = f"127.0.0.1:{port}", "http"
    if tls:
        texts = []
        for part in tls:
            with open(part, encoding="ascii") as file:
                texts.append(file.read())
        bind, scheme = f"{bind} ssl crt {written(directory, 'pair.pem', ''.join(texts))} alpn h2,http/1.1 ssl-min-ver TLSv1.2", "https"
    servers = "".join(f"  server s{n} {endpoint} check inter 1s pool-max-conn 512\n" for n, endpoint in enumerate(endpoints))
    # It writes no files itself: its standard output is one here.
    log_global = "  log stdout len 2048 format raw local0\n" if log else ""
    log_format = """  log global
  log-format '{"time":"%T","client":"%ci","method":"%HM","path":"%HP","status":%ST,"bytes":%B,"duration":%Ta,"endpoint":"%si:%sp","host":"%[capture.req.hdr(0)]","agent":"%[capture.req.hdr(1)]"}'
  capture request header Host len 64
  capture request header User-Agent len 64
""" if log else ""
    path = written(directory, "haproxy.cfg", f"""global
  nbthread 1
{log_global}defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 60s
  timeout http-keep-alive 600s
frontend web
  bind {bind}
  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Forwarded-Proto {scheme}
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header Via "1.1 haproxy"
  unique-id-format %[uuid()]
  unique-id-header X-Request-Id
  http-response set-header X-Request-Id %[unique-id]
  acl assets hdr(host) -i static.example.com
  acl files path_beg /assets/
  acl api path_beg /api/
  use_backend services if assets files
  use_backend services if api
  http-response set-header Via "1.1 haproxy"
  http-response set-header x-proxy bench
{log_format}  default_backend services
backend services
  balance roundrobin
  http-reuse always
{servers}""")
    return [binary, "-db", "-f", path]


def envoy(binary, directory, port, endpoints, log, tls):
    if log or tls:
        raise Unable("it is here for bodies, over plain HTTP/1.1 and without a log")
    add = lambda name, value: f"{{header: {{key: {name}, value: '{value}'}}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}"
    address = lambda host, port: f"{{address: {{socket_address: {{address: {host}, port_value: {port}}}}}}}"
    hosts = ", ".join(f"{{endpoint: {address(*endpoint.rsplit(':', 1))}}}" for endpoint in endpoints)
    path = written(directory, "envoy.yaml", f"""
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          codec_type: HTTP1
          use_remote_address: true
          generate_request_id: true
          always_set_request_id_in_response: true
          via: "1.1 envoy"
          request_timeout: 0s
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, suppress_envoy_headers: true}}
          route_config:
            request_headers_to_add: [{add("x-forwarded-host", "%REQ(:AUTHORITY)%")}]
            response_headers_to_add: [{add("x-proxy", "bench")}]
            virtual_hosts:
            - {{name: static, domains: [static.example.com], routes: [{{match: {{prefix: /assets/}}, route: {{cluster: services}}}}]}}
            - name: all
              domains: ["*"]
              routes:
              - {{match: {{prefix: /api/}}, route: {{cluster: services}}}}
              - {{match: {{prefix: /}}, route: {{cluster: services}}}}
  clusters:
  - name: services
    type: STATIC
    lb_policy: ROUND_ROBIN
    connect_timeout: 5s
    health_checks:
    - {{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {{}}}}
    load_assignment: {{cluster_name: services, endpoints: [{{lb_endpoints: [{hosts}]}}]}}
""")
    return [binary, "-c", path, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]


def origin(binary, directory, ports, small, large):
    """nginx serves as the origin too: it costs the load's core less than anything of our own would, and is there anyway. What is sent to
    /upload it reads whole before it answers: the body is kept, and somebody else is asked without it."""
    with open(os.path.join(directory, "large"), "wb") as file:
        file.write(large)
    listens = " ".join(f"listen 127.0.0.1:{port};" for port in ports)
    path = written(directory, "nginx.conf", nginx_main(directory) + f"""
http {{
  access_log off; sendfile on; default_type text/plain;
  keepalive_requests 1000000000; keepalive_timeout 600s; {nginx_paths(directory)}
  server {{
    {listens}
    location = / {{ return 200 "{small.decode()}"; }}
    location = /large {{ root {directory}; }}
    location = /upload {{
      client_max_body_size 8m; client_body_buffer_size 2m;
      proxy_pass http://answers; proxy_pass_request_body off; proxy_set_header Content-Length "";
      proxy_http_version 1.1; proxy_set_header Connection "";
    }}
  }}
  upstream answers {{ server unix:{directory}/answers; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen unix:{directory}/answers;
    location / {{ return 200 "{small.decode()}"; }}
  }}
}}
""")
    return [binary, "-p", directory, "-e", f"{directory}/error.log", "-c", path]


def nginx_main(directory):
    # One process and no master: what it costs is then in one place.
    return f"""daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/error.log error;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}"""


def nginx_paths(directory):
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return " ".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)


CONTENDERS = {"ravelin": ravelin, "bare": bare, "nginx": nginx, "haproxy": haproxy, "envoy": envoy}
# Debian has no Envoy, so it takes part where it is asked for.
USUAL = ("ravelin", "bare", "nginx", "haproxy")
PEERS = ("nginx", "haproxy", "envoy")
