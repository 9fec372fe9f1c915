//! Questions to the hub and its answers.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::http::Response;
use ureq::{Agent, Body};

use super::error::HubError;
use super::name::{Kind, Repository, is_commit, parts_of_file};
use super::settings::Settings;

/// Bytes of a list of files at most.
const LONGEST_LIST: u64 = 64 << 20;

/// A download that is slower than this is cut, and goes on.
const SLOWEST: u64 = 50_000;

/// What a repository holds at a commit.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) commit: String,
    pub(super) files: BTreeMap<String, RemoteFile>,
}

/// A file of a repository.
#[derive(Debug, Clone)]
pub(super) struct RemoteFile {
    pub(super) size: u64,
    /// Its name in the cache: a hash of its contents.
    pub(super) blob: String,
    /// Whether that hash is SHA-256, and not git's.
    pub(super) is_sha256: bool,
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// A hub, asked for one repository.
pub(super) struct Client<'a> {
    agent: Agent,
    settings: &'a Settings,
    repository: &'a Repository,
    /// What a person asked for.
    name: &'a str,
}

impl<'a> Client<'a> {
    pub(super) fn new(settings: &'a Settings, repository: &'a Repository, name: &'a str) -> Self {
        let config = Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .http_status_as_error(false)
            // files of private repositories are redirected on the same host, all others to hosts that need no token
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("ascribe/", env!("CARGO_PKG_VERSION")));
        // a hub on this machine is behind no proxy
        let is_here = ["http://127.0.0.1", "http://localhost"].iter().any(|here| settings.endpoint.starts_with(here));
        let config = if is_here { config.proxy(None).build() } else { config.build() };
        Self { agent: config.into(), settings, repository, name }
    }

    pub(super) fn answer(&self, problem: impl Into<String>) -> HubError {
        let (name, endpoint) = (self.name.to_owned(), self.settings.endpoint.clone());
        HubError::Answer { name, endpoint, problem: problem.into() }
    }

    /// The files of the repository at its revision.
    pub(super) fn contents(&self) -> Result<Contents, HubError> {
        let Repository { kind, id, revision } = self.repository;
        let kind = match kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        let path = format!("api/{kind}/{id}/revision/{}?blobs=true", encoded(&revision.replace('/', "%2F"), "%"));
        let mut response = self.get(&path, &[], Duration::from_secs(120))?;
        self.check(&response, || format!("{} `{id}` with a revision `{revision}`", kind.trim_end_matches('s')))?;
        let mut text = vec![];
        let read = response.body_mut().as_reader().take(LONGEST_LIST + 1).read_to_end(&mut text);
        read.map_err(|error| self.answer(format!("broke its list of files off: {error}")))?;
        if text.len() as u64 > LONGEST_LIST {
            return Err(self.answer("gives a list of files of more than 64 MiB"));
        }
        let answer: Answer = serde_json::from_slice(&text)
            .map_err(|error| self.answer(format!("gives a list of files that is none: {error}")))?;
        if !is_commit(&answer.sha) {
            return Err(self.answer("names no commit"));
        }
        let mut files = BTreeMap::new();
        for Sibling { rfilename, size, blob_id, lfs } in answer.siblings {
            if parts_of_file(&rfilename).is_none() {
                return Err(self.answer(format!("lists a file `{rfilename}`, which would lie outside of its folder")));
            }
            let is_sha256 = lfs.is_some();
            let found = lfs.map(|lfs| (lfs.sha256, lfs.size)).or(blob_id.zip(size));
            let Some((blob, size)) = found else {
                return Err(self.answer(format!("says no size or no hash of `{rfilename}`")));
            };
            let digits = if is_sha256 { 64 } else { 40 };
            if blob.len() != digits || !blob.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(self.answer(format!("gives a hash of `{rfilename}` that is none")));
            }
            files.insert(rfilename, RemoteFile { size, blob, is_sha256 });
        }
        Ok(Contents { commit: answer.sha, files })
    }

    /// The bytes of a file from `start` on, if the hub gives parts.
    pub(super) fn file(&self, commit: &str, file: &str, start: u64, size: u64) -> Result<Response<Body>, HubError> {
        let folder = match self.repository.kind {
            Kind::Model => "",
            Kind::Dataset => "datasets/",
        };
        let path = format!("{folder}{}/resolve/{commit}/{}", self.repository.id, encoded(file, "/"));
        let range = format!("bytes={start}-");
        let headers: &[(&str, &str)] = if start > 0 { &[("Range", &range)] } else { &[] };
        self.get(&path, headers, Duration::from_secs(60 + size / SLOWEST))
    }

    fn get(&self, path: &str, headers: &[(&str, &str)], longest: Duration) -> Result<Response<Body>, HubError> {
        let url = format!("{}/{path}", self.settings.endpoint);
        let mut request = self.agent.get(&url).config().timeout_recv_body(Some(longest)).build();
        if let Some(token) = &self.settings.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        // what is packed on its way has another length
        request = request.header("Accept-Encoding", "identity");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let unreachable = |source| HubError::Unreachable {
            name: self.name.to_owned(),
            endpoint: self.settings.endpoint.clone(),
            source: Box::new(source),
        };
        request.call().map_err(unreachable)
    }

    /// An error for every status that is no success.
    pub(super) fn check(&self, response: &Response<Body>, what: impl Fn() -> String) -> Result<(), HubError> {
        let (name, endpoint) = (self.name.to_owned(), self.settings.endpoint.clone());
        match response.status().as_u16() {
            200 | 206 => Ok(()),
            404 => Err(HubError::Absent { name, endpoint, what: what() }),
            status => Err(HubError::Refused { name, endpoint, status }),
        }
    }
}

/// A part of an address in which every character that may mean something else is written as its bytes.
fn encoded(text: &str, kept: &str) -> String {
    let mut all = String::with_capacity(text.len());
    for byte in text.bytes() {
        let c = char::from(byte);
        match c {
            _ if c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~') || kept.contains(c) => all.push(c),
            _ => all.push_str(&format!("%{byte:02X}")),
        }
    }
    all
}
