//! Names of the hub: repositories, revisions, files.

use std::path::Path;

use super::error::HubError;

/// What names begin with.
const PREFIX: &str = "hub:";

/// Characters of a part of a name at most, as the hub has it.
const LONGEST: usize = 96;

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Model,
    Dataset,
}

/// A repository at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Repository {
    pub(super) kind: Kind,
    /// `ORG/NAME`, or `NAME` of the first models.
    pub(super) id: String,
    /// A branch, a tag or a commit.
    pub(super) revision: String,
}

/// Whether a path is a name of the hub.
pub fn is_name(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.starts_with(PREFIX))
}

/// The name of the hub that somebody may have meant by a path that is not there: `hub:ORG/NAME`.
pub fn would_be(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    let (id, revision) = text.split_once('@').map_or((text, None), |(id, revision)| (id, Some(revision)));
    let is_id = id.split('/').count() == 2 && is_id(id) && revision.is_none_or(is_revision);
    is_id.then(|| format!("{PREFIX}{text}"))
}

/// The repository and the commit whose file or folder a path in the hub's cache is.
pub fn of_snapshot(path: &Path) -> Option<(String, String)> {
    let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
    parts.windows(3).rev().find_map(|parts| {
        let repository = parts[0].strip_prefix("models--").or_else(|| parts[0].strip_prefix("datasets--"))?;
        (parts[1] == "snapshots" && is_commit(parts[2]))
            .then(|| (repository.replacen("--", "/", 1), parts[2].to_owned()))
    })
}

/// 40 hexadecimal digits.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The parts of a file's name in a repository, each of which names something below the one before.
pub(super) fn parts_of_file(file: &str) -> Option<Vec<&str>> {
    let is_part = |part: &&str| {
        let plain = |c: char| !c.is_control() && !matches!(c, '\\' | ':');
        !part.is_empty() && *part != "." && *part != ".." && part.chars().all(plain)
    };
    let parts: Vec<&str> = file.split('/').collect();
    (parts.iter().all(is_part) && parts.len() <= 32 && file.len() <= 1024).then_some(parts)
}

fn is_id(id: &str) -> bool {
    let is_part = |part: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let is_closed = |b: Option<u8>| b.is_some_and(|b| !matches!(b, b'.' | b'-'));
        let bytes = part.as_bytes();
        part.len() <= LONGEST
            && part.bytes().all(plain)
            && is_closed(bytes.first().copied())
            && is_closed(bytes.last().copied())
            // the cache writes `--` for `/`
            && !part.contains("--")
            && !part.contains("..")
    };
    id.split('/').all(is_part)
}

fn is_revision(revision: &str) -> bool {
    let is_part = |part: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+');
        !part.is_empty() && part.bytes().all(plain) && !part.starts_with('.') && !part.contains("..")
    };
    revision.len() <= 255 && revision.split('/').all(is_part)
}

/// The model that `hub:ORG/NAME[@REVISION]` names.
pub(super) fn of_model(name: &str) -> Result<Repository, HubError> {
    let problem = |problem| HubError::Name { name: name.to_owned(), problem };
    let text = name.strip_prefix(PREFIX).unwrap_or(name);
    let (id, revision) = text.split_once('@').unwrap_or((text, "main"));
    if !is_id(id) || id.split('/').count() > 2 {
        return Err(problem("is no model of the hub: write `hub:ORG/NAME` or `hub:ORG/NAME@REVISION`"));
    }
    if !is_revision(revision) {
        return Err(problem("names no branch, tag or commit behind its `@`"));
    }
    Ok(Repository { kind: Kind::Model, id: id.to_owned(), revision: revision.to_owned() })
}

/// A model's name at a commit, whatever revision it names.
pub(super) fn model_at(name: &str, commit: &str) -> Result<String, HubError> {
    let Repository { id, .. } = of_model(name)?;
    check_commit(name, commit)?;
    Ok(format!("{PREFIX}{id}@{commit}"))
}

/// The name of a data set's file at a commit, whatever revision it names.
pub(super) fn file_at(name: &str, commit: &str) -> Result<String, HubError> {
    let (Repository { id, .. }, file) = of_file(name)?;
    check_commit(name, commit)?;
    Ok(format!("{PREFIX}{id}@{commit}/{file}"))
}

fn check_commit(name: &str, commit: &str) -> Result<(), HubError> {
    match is_commit(commit) {
        true => Ok(()),
        false => Err(HubError::Name { name: name.to_owned(), problem: "is held to a commit that is none" }),
    }
}

/// The data set and the file in it that `hub:ORG/NAME[@REVISION]/FILE` names.
pub(super) fn of_file(name: &str) -> Result<(Repository, String), HubError> {
    let problem = |problem| HubError::Name { name: name.to_owned(), problem };
    let text = name.strip_prefix(PREFIX).unwrap_or(name);
    let mut parts = text.splitn(3, '/');
    let (Some(org), Some(set), Some(file)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(problem("names no file of a data set: write `hub:ORG/NAME/FILE`"));
    };
    let (set, revision) = set.split_once('@').unwrap_or((set, "main"));
    // a slash in a revision would end it
    let revision = revision.replace("%2F", "/");
    let id = format!("{org}/{set}");
    if !is_id(&id) {
        return Err(problem("is no data set of the hub: write `hub:ORG/NAME/FILE` or `hub:ORG/NAME@REVISION/FILE`"));
    }
    if !is_revision(&revision) {
        return Err(problem("names no branch, tag or commit behind its `@`"));
    }
    if parts_of_file(file).is_none() {
        return Err(problem("names a file that would lie outside of the data set"));
    }
    Ok((Repository { kind: Kind::Dataset, id, revision }, file.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_repositories_revisions_and_files() {
        let of = |name| of_model(name).map(|found| (found.id, found.revision));
        assert_eq!(of("hub:org/name").expect("a name"), ("org/name".into(), "main".into()));
        assert_eq!(of("hub:gpt2@refs/pr/3").expect("a name"), ("gpt2".into(), "refs/pr/3".into()));
        for bad in [
            "hub:",
            "hub:a/b/c",
            "hub:../b",
            "hub:a/..",
            "hub:a--b/c",
            "hub:a/b@",
            "hub:a/b@../x",
            "hub:a/b@x y",
            "hub:a b/c",
            "hub:/etc",
        ] {
            assert!(of_model(bad).is_err(), "{bad}");
        }
        let of = |name| of_file(name).map(|(found, file)| (found.id, found.revision, file));
        let want = ("o/d".into(), "v1.0".into(), "data/train.parquet".into());
        assert_eq!(of("hub:o/d@v1.0/data/train.parquet").expect("a file"), want);
        assert_eq!(of("hub:o/d@refs%2Fpr%2F1/x").expect("a file").1, "refs/pr/1");
        for bad in [
            "hub:o/d",
            "hub:o/d/",
            "hub:o/d/../x",
            "hub:o/d/a//b",
            "hub:o/d/./x",
            "hub:o/d/a\\b",
            "hub:o/d@/x",
            "hub:o/d/C:/x",
        ] {
            assert!(of_file(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_commit_takes_the_place_of_a_revision() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(model_at("hub:o/m@v1", commit).expect("a name"), format!("hub:o/m@{commit}"));
        assert_eq!(model_at("hub:gpt2", commit).expect("a name"), format!("hub:gpt2@{commit}"));
        let file = file_at("hub:o/d@refs%2Fpr%2F1/data/a@b-*.parquet", commit).expect("a name");
        assert_eq!(file, format!("hub:o/d@{commit}/data/a@b-*.parquet"));
        assert!(model_at("hub:o/m", "main").is_err() && file_at("hub:o/d/x", "../x").is_err());
    }

    #[test]
    fn paths_are_no_names_and_may_have_been_meant_as_some() {
        assert!(is_name(Path::new("hub:a/b")) && !is_name(Path::new("a/b")) && !is_name(Path::new("./hub:a/b")));
        assert_eq!(would_be(Path::new("org/name@v1")).as_deref(), Some("hub:org/name@v1"));
        for path in ["out", "out/", "/org/name", "a/b/c", "../x", "./out", "a/b c"] {
            assert_eq!(would_be(Path::new(path)), None, "{path}");
        }
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let path = format!("/cache/datasets--o--d/snapshots/{commit}/data/x.parquet");
        assert_eq!(of_snapshot(Path::new(&path)), Some(("o/d".into(), commit.into())));
        assert_eq!(of_snapshot(Path::new("/cache/models--o--d/snapshots/main")), None);
    }
}
