//! Licences, sources and names of the dependencies against `deny.toml`: cargo-deny's questions without
//! its installation.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What `deny.toml` says.
struct Rules {
    licences: BTreeSet<String>,
    banned: BTreeSet<String>,
    registries: BTreeSet<String>,
}

impl Rules {
    fn read() -> Self {
        let text = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
        let rules: toml::Table = toml::from_str(&text).expect("deny.toml is TOML");
        let strings = |table: &str, key: &str| -> BTreeSet<String> {
            let list = rules[table][key].as_array().expect("a list");
            let name = |entry: &toml::Value| entry.as_str().or_else(|| entry["crate"].as_str()).map(str::to_owned);
            list.iter().map(|entry| name(entry).expect("a text, or a table with `crate`")).collect()
        };
        Self {
            licences: strings("licenses", "allow"),
            banned: strings("bans", "deny"),
            registries: strings("sources", "allow-registry"),
        }
    }

    /// Whether an SPDX expression can be met by the licences that are allowed. `/` is the old way to write `OR`.
    fn allow(&self, expression: &str) -> bool {
        let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
        let mut words = spaced.split_whitespace().peekable();
        let met = self.either(&mut words);
        assert_eq!(words.next(), None, "`{expression}` ends before its end");
        met
    }

    fn either<'a>(&self, words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> bool {
        let mut met = self.all(words);
        while words.next_if_eq(&"OR").is_some() {
            met |= self.all(words);
        }
        met
    }

    fn all<'a>(&self, words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> bool {
        let mut met = self.one(words);
        while words.next_if_eq(&"AND").is_some() {
            met &= self.one(words);
        }
        met
    }

    fn one<'a>(&self, words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> bool {
        match words.next() {
            Some("(") => {
                let met = self.either(words);
                assert_eq!(words.next(), Some(")"), "a bracket is not closed");
                met
            }
            Some(licence) => match words.next_if_eq(&"WITH") {
                Some(_) => self.licences.contains(&format!("{licence} WITH {}", words.next().unwrap_or_default())),
                None => self.licences.contains(licence),
            },
            None => false,
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The packages that a build on this platform uses, as `cargo metadata` describes them.
fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // for this platform alone: what others need was not downloaded
    let platform = Command::new(&cargo).arg("-vV").output().expect("cargo, which runs this test");
    let platform = String::from_utf8(platform.stdout).expect("text");
    let platform = platform.lines().find_map(|line| line.strip_prefix("host: ")).expect("the line `host:`");
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", platform])
        .current_dir(root())
        .output()
        .expect("cargo, which runs this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    metadata["packages"].as_array().expect("a list").clone()
}

#[test]
fn dependencies_keep_the_rules() {
    let rules = Rules::read();
    let packages = packages();
    assert!(packages.len() > 100, "only {} packages: is the list whole?", packages.len());
    let mut broken = vec![];
    for package in &packages {
        let [name, version] = ["name", "version"].map(|key| package[key].as_str().expect("a text"));
        let mut say = |problem: String| broken.push(format!("{name} {version}: {problem}"));
        match package["license"].as_str() {
            Some(licence) if rules.allow(licence) => {}
            licence => say(format!("licence {licence:?}")),
        }
        if rules.banned.contains(name) {
            say("banned".into());
        }
        // a package without a source lies in this repository
        if let Some(source) = package["source"].as_str()
            && !source.strip_prefix("registry+").is_some_and(|registry| rules.registries.contains(registry))
        {
            say(format!("source {source}"));
        }
    }
    assert!(broken.is_empty(), "deny.toml does not allow:\n{}", broken.join("\n"));
}

#[test]
fn licence_expressions_are_understood() {
    let rules = Rules { licences: ["MIT", "Zlib"].map(str::to_owned).into(), banned: [].into(), registries: [].into() };
    for met in ["MIT", "GPL-3.0 OR MIT", "MIT/Apache-2.0", "(GPL-3.0 OR Zlib) AND MIT", "X WITH Y OR Zlib"] {
        assert!(rules.allow(met), "{met}");
    }
    for not_met in ["", "GPL-3.0", "MIT AND GPL-3.0", "MIT WITH Y", "(MIT OR Zlib) AND X", "X OR MIT AND Y"] {
        assert!(!rules.allow(not_met), "{not_met}");
    }
}
