//! An HTTP/2 client that sends what no library would: fields are encoded literally, frames are written as they are told.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::case::Frame;
use crate::support::Deadline;

/// How the peer answered stream 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A whole response.
    Status(u16, Vec<u8>),
    /// The stream was reset, or the connection ended.
    Reset,
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// Sends the frames on stream 1 of a new connection, and reads until the stream ends.
pub(crate) fn exchange(address: &str, frames: &[Frame], deadline: Deadline) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(deadline.left()))?;
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut out, SETTINGS, 0, 0, &[]);
    for part in frames {
        match part {
            Frame::Headers(fields, end) => frame(&mut out, HEADERS, END_HEADERS | u8::from(*end), 1, &encoded(fields)),
            Frame::Data(data, end) => frame(&mut out, DATA, u8::from(*end), 1, data),
        }
    }
    // A peer that has had enough may reset while we write: its answer tells.
    let _ = stream.write_all(&out);
    read(&mut stream)
}

fn read(stream: &mut TcpStream) -> io::Result<Answer> {
    let mut status = None;
    let mut body = Vec::new();
    loop {
        let (mut head, mut payload) = ([0; 9], Vec::new());
        let came = stream.read_exact(&mut head).and_then(|()| {
            payload.resize(u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize, 0);
            stream.read_exact(&mut payload)
        });
        if let Err(error) = came {
            let over = matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset);
            return if over { Ok(Answer::Reset) } else { Err(error) };
        }
        let (kind, flags) = (head[3], head[4]);
        match kind {
            SETTINGS if flags == 0 => {
                let mut ack = Vec::new();
                frame(&mut ack, SETTINGS, 1, 0, &[]);
                let _ = stream.write_all(&ack);
            }
            HEADERS => status = status.or(Some(status_of(&payload)?)),
            DATA => body.extend_from_slice(&payload),
            RST_STREAM | GOAWAY => {
                // After a whole answer a reset only says that the rest of the request is not wanted.
                return Ok(Answer::Reset);
            }
            _ => {}
        }
        if matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
            return Ok(Answer::Status(status.unwrap_or(0), body));
        }
    }
}

pub(crate) fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Literal fields without indexing and without Huffman's code (RFC 7541 §6.2.2).
pub(crate) fn encoded(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            // An integer with a prefix of 7 bits (RFC 7541 §5.1).
            match text.len() {
                short @ 0..127 => out.push(u8::try_from(short).unwrap()),
                long => {
                    out.push(127);
                    let mut rest = long - 127;
                    while rest >= 128 {
                        out.push(u8::try_from(rest % 128 + 128).unwrap());
                        rest /= 128;
                    }
                    out.push(u8::try_from(rest).unwrap());
                }
            }
            out.extend_from_slice(text);
        }
    }
    out
}

/// The status at the beginning of a block: of the static table, or a literal with its name (RFC 7541 §6).
fn status_of(block: &[u8]) -> io::Result<u16> {
    const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    // A change of the table's size may come first.
    let start = block.iter().position(|byte| byte & 0xe0 != 0x20).unwrap_or(0);
    match block[start] {
        indexed @ 0x88..=0x8e => Ok(STATIC[usize::from(indexed - 0x88)]),
        _ => {
            let length = block[start + 1];
            let text = &block[start + 2..start + 2 + usize::from(length & 0x7f)];
            let digits = if length & 0x80 == 0 { text.iter().map(|byte| byte - b'0').collect() } else { huffman_digits(text) };
            digits
                .get(..3)
                .map(|three| three.iter().fold(0, |sum, digit| sum * 10 + u16::from(*digit)))
                .ok_or_else(|| io::Error::other(format!("no status: {block:x?}")))
        }
    }
}

/// Digits in Huffman's code (RFC 7541, appendix B): 0 to 2 have five bits, the others six.
fn huffman_digits(bytes: &[u8]) -> Vec<u8> {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    let number = |bits: &[u8]| bits.iter().fold(0, |sum, bit| sum << 1 | bit);
    let (mut at, mut digits) = (0, Vec::new());
    while at + 5 <= bits.len() && digits.len() < 3 {
        let five = number(&bits[at..at + 5]);
        if five <= 2 {
            digits.push(five);
            at += 5;
        } else {
            digits.push(number(&bits[at..(at + 6).min(bits.len())]) - 0x19 + 3);
            at += 6;
        }
    }
    digits
}
