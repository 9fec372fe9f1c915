//! A hub on this machine, for tests: a few repositories, and what goes wrong on the way to them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use sha2::{Digest, Sha256};

/// The commit of every repository.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the hub has and does; what it was asked for.
#[derive(Debug, Default)]
pub struct State {
    /// Files by `models/ORG/NAME/FILE` or `datasets/ORG/NAME/FILE`.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Of these files the connection ends after so many bytes of an answer, once for each number.
    pub cuts: BTreeMap<String, Vec<usize>>,
    /// Of these files the wrong bytes are given.
    pub damaged: Vec<String>,
    /// Other answers to these addresses: a status and a body.
    pub instead: BTreeMap<String, (u16, String)>,
    /// Addresses with the `Range` and the `Authorization` that they were asked with.
    pub asked: Vec<(String, String, String)>,
}

/// A hub that answers until the test ends.
pub struct Hub {
    /// Its address.
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    /// Begins to answer.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || answer(&stream, &shared, port));
            }
        });
        Self { endpoint: format!("http://127.0.0.1:{port}"), state }
    }

    /// What it has, does and was asked for.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test ends while it holds this")
    }

    /// Adds a file.
    pub fn add(&self, path: &str, content: impl AsRef<[u8]>) {
        self.state().files.insert(path.to_owned(), content.as_ref().to_vec());
    }

    /// The addresses that were asked for since the last call.
    #[allow(dead_code)]
    pub fn asked(&self) -> Vec<String> {
        self.state().asked.drain(..).map(|(path, ..)| path).collect()
    }
}

/// The hash of a large file; of a small one, whose hash nobody checks, its first digits.
pub fn hash(path: &str, content: &[u8]) -> String {
    let digits: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    if is_large(path) { digits } else { digits[..40].to_owned() }
}

fn is_large(path: &str) -> bool {
    path.ends_with(".safetensors") || path.ends_with(".parquet")
}

/// The hub's answer about a repository.
pub fn listing(files: &BTreeMap<String, Vec<u8>>, repository: &str) -> String {
    let of = |(path, content): (&String, &Vec<u8>)| {
        let name = path.strip_prefix(repository)?.strip_prefix('/')?;
        let (size, hash) = (content.len(), hash(path, content));
        Some(match is_large(path) {
            true => format!(
                r#"{{"rfilename":"{name}","blobId":"00","size":{size},"lfs":{{"sha256":"{hash}","size":{size},"pointerSize":1}}}}"#
            ),
            false => format!(r#"{{"rfilename":"{name}","blobId":"{hash}","size":{size}}}"#),
        })
    };
    let siblings: Vec<String> = files.iter().filter_map(of).collect();
    format!(r#"{{"id":"x","sha":"{COMMIT}","siblings":[{}]}}"#, siblings.join(","))
}

fn answer(stream: &TcpStream, state: &Mutex<State>, port: u16) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let path = lines.next().and_then(|line| line.split(' ').nth(1).map(str::to_owned)).unwrap_or_default();
    let headers: Vec<(String, String)> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())))
        .collect();
    let header =
        |name: &str| headers.iter().find(|(of, _)| of == name).map(|(_, value)| value.clone()).unwrap_or_default();
    let mut state = state.lock().expect("no test ends while it holds this");
    state.asked.push((path.clone(), header("range"), header("authorization")));
    let write = |head: String, body: &[u8]| {
        let mut stream = stream;
        let _ = stream.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes());
        let _ = stream.write_all(body);
    };
    if let Some((status, body)) = state.instead.get(&path) {
        return write(format!("{status} said\r\nContent-Length: {}", body.len()), body.as_bytes());
    }
    if let Some(rest) = path.strip_prefix("/api/") {
        let (repository, revision) = rest.split_once("/revision/").unwrap_or((rest, ""));
        let is_there = state.files.keys().any(|file| file.starts_with(&format!("{repository}/")));
        let knows = ["main", "v1", COMMIT].iter().any(|known| revision == format!("{known}?blobs=true"));
        let body = listing(&state.files, repository);
        return match is_there && knows {
            true => write(format!("200 OK\r\nContent-Length: {}", body.len()), body.as_bytes()),
            false => write("404 Not Found\r\nContent-Length: 2".into(), b"no"),
        };
    }
    // large files lie at another host
    let elsewhere = path.strip_prefix("/elsewhere");
    let key = match elsewhere.unwrap_or(&path).split_once(&format!("/resolve/{COMMIT}/")) {
        Some((repository, file)) if repository.starts_with("/datasets/") => format!("{}/{file}", &repository[1..]),
        Some((repository, file)) => format!("models{repository}/{file}"),
        None => String::new(),
    };
    let Some(content) = state.files.get(&key).cloned() else {
        return write("404 Not Found\r\nContent-Length: 2".into(), b"no");
    };
    if is_large(&key) && elsewhere.is_none() {
        return write(
            format!("302 Found\r\nLocation: http://localhost:{port}/elsewhere{path}\r\nContent-Length: 0"),
            b"",
        );
    }
    let content = if state.damaged.contains(&key) { vec![b'?'; content.len()] } else { content };
    let range = header("range");
    let start = range.strip_prefix("bytes=").and_then(|range| range.trim_end_matches('-').parse::<usize>().ok());
    let (status, from) = match start {
        Some(start) => {
            (format!("206 Partial\r\nContent-Range: bytes {start}-{}/{}", content.len() - 1, content.len()), start)
        }
        None => ("200 OK".to_owned(), 0),
    };
    let rest = &content[from.min(content.len())..];
    let cut = state.cuts.get_mut(&key).filter(|cuts| !cuts.is_empty()).map(|cuts| cuts.remove(0));
    let sent = &rest[..cut.unwrap_or(rest.len()).min(rest.len())];
    write(format!("{status}\r\nContent-Length: {}", rest.len()), sent);
}
