//! A server that has its answers ready, for measuring clients: as many rows as texts were sent, of
//! 1,536 numbers, in base64 where that was asked for, whatever the texts are. A thread a connection,
//! nothing is parsed but what must be.
//!
//! `canned [latency-ms [certificate.pem key.pem]]` prints its address and serves until stdin ends.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::Duration;

use base64_simd::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

const DIMENSIONS: u32 = 1536;

/// By the number of rows and whether they are in base64.
type Answers = Arc<RwLock<HashMap<(usize, bool), Arc<[u8]>>>>;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let latency = arguments.first().map_or(0, |ms| ms.parse().expect("ms"));
    let latency = Duration::from_millis(latency);
    let tls = arguments
        .get(1)
        .map(|certificate| tls(certificate, &arguments[2]));
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    println!("{scheme}://localhost:{}", listener.local_addr()?.port());
    let answers = Answers::default();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (answers, tls) = (answers.clone(), tls.clone());
            thread::spawn(move || accept(stream, tls, &answers, latency));
        }
    });
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

fn tls(certificate: &str, key: &str) -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(certificate).expect("a certificate");
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_no_client_auth()
        .with_single_cert(chain, key);
    Arc::new(config.expect("a key of the certificate"))
}

fn accept(stream: TcpStream, tls: Option<Arc<ServerConfig>>, answers: &Answers, wait: Duration) {
    stream.set_nodelay(true).expect("an open socket");
    // Clients go away when they like.
    let _ = match tls {
        None => serve(stream, answers, wait),
        Some(config) => {
            let session = ServerConnection::new(config).expect("a proper configuration");
            serve(StreamOwned::new(session, stream), answers, wait)
        }
    };
}

fn serve(mut stream: impl Read + Write, answers: &Answers, wait: Duration) -> io::Result<()> {
    let mut request = Vec::new();
    let mut block = vec![0; 256 << 10];
    loop {
        let end = loop {
            if let Some(end) = end_of(&request) {
                break end;
            }
            let length = stream.read(&mut block)?;
            if length == 0 {
                return Ok(());
            }
            request.extend_from_slice(&block[..length]);
        };
        let rows = texts_in(&request[..end]);
        // It comes after the texts, or before them.
        let near = [
            &request[..end.min(1024)],
            &request[end.saturating_sub(128)..end],
        ];
        let is_base64 = near.iter().any(|part| find(part, b"\"base64\"").is_some());
        request.drain(..end);
        if !wait.is_zero() {
            thread::sleep(wait);
        }
        let known = answers
            .read()
            .expect("nobody panics")
            .get(&(rows, is_base64))
            .cloned();
        let answer = known.unwrap_or_else(|| {
            let made: Arc<[u8]> = answer(rows, is_base64).into();
            answers
                .write()
                .expect("nobody panics")
                .insert((rows, is_base64), made.clone());
            made
        });
        stream.write_all(&answer)?;
        stream.flush()?;
    }
}

/// Where the first request ends, if it is whole.
fn end_of(request: &[u8]) -> Option<usize> {
    let head = find(request, b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&request[..head])
        .ok()?
        .to_ascii_lowercase();
    let (_, length) = text.split_once("content-length:")?;
    let length: usize = length.lines().next()?.trim().parse().ok()?;
    (request.len() >= head + length).then_some(head + length)
}

/// The number of strings in the body's `input`.
fn texts_in(request: &[u8]) -> usize {
    let key = b"\"input\":";
    let at = find(request, key).expect("a request for embeddings");
    let mut rest = &request[at + key.len()..];
    let (mut texts, mut is_inside) = (0, false);
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'\\' if is_inside => rest = &rest[1..],
            b'"' => {
                is_inside = !is_inside;
                texts += usize::from(is_inside);
            }
            b']' if !is_inside => break,
            _ => {}
        }
    }
    texts
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|there| there == part)
}

fn answer(rows: usize, is_base64: bool) -> Vec<u8> {
    let mut body = String::from("{\"object\":\"list\",\"data\":[");
    for row in 0..rows {
        if row > 0 {
            body.push(',');
        }
        // Row i holds i + 0, i + 1, … over 997, so that a row in another's place is seen.
        let start = u32::try_from(row).expect("few rows");
        #[allow(clippy::cast_precision_loss, reason = "they are small")]
        let numbers = (0..DIMENSIONS).map(|i| (start + i) as f32 / 997.0);
        let vector = if is_base64 {
            let bytes: Vec<u8> = numbers.flat_map(f32::to_le_bytes).collect();
            format!("\"{}\"", STANDARD.encode_to_string(&bytes))
        } else {
            let texts: Vec<String> = numbers.map(|number| number.to_string()).collect();
            format!("[{}]", texts.join(","))
        };
        body.push_str("{\"object\":\"embedding\",\"index\":");
        body.push_str(&row.to_string());
        body.push_str(",\"embedding\":");
        body.push_str(&vector);
        body.push('}');
    }
    body.push_str("],\"model\":\"text-embedding-3-small\",\"usage\":{\"prompt_tokens\":");
    let rows = rows.to_string();
    for part in [&rows, ",\"total_tokens\":", &rows, "}}"] {
        body.push_str(part);
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}
