//! Where the hub is and where its files are kept, as the environment says.

use std::path::PathBuf;

/// Where the hub is, and where its files are kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// The hub's address, without a slash at its end.
    pub endpoint: String,
    /// The folder that has a folder for each repository.
    pub cache: PathBuf,
    /// What proves who asks.
    pub token: Option<String>,
    /// Whether only the cache is read.
    pub is_offline: bool,
}

/// A token is a secret.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Settings");
        shown.field("endpoint", &self.endpoint).field("cache", &self.cache).field("is_offline", &self.is_offline);
        shown.finish_non_exhaustive()
    }
}

impl Settings {
    /// As `huggingface_hub` reads them: `HF_ENDPOINT`; `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else in
    /// `XDG_CACHE_HOME/huggingface`, else in `~/.cache/huggingface`; `HF_TOKEN`, else the file `HF_TOKEN_PATH`, else
    /// `token` in the same folder; `HF_HUB_OFFLINE`.
    pub fn from_environment() -> Self {
        Self::of(|name| std::env::var(name).ok())
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let given = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let path = |name: &str| given(name).map(|value| home(&given, &value));
        let is_on = |name: &str| {
            given(name).is_some_and(|value| matches!(value.to_lowercase().as_str(), "1" | "on" | "yes" | "true"))
        };
        let caches = path("XDG_CACHE_HOME").unwrap_or_else(|| home(&given, "~/.cache"));
        let folder = path("HF_HOME").unwrap_or_else(|| caches.join("huggingface"));
        let of_file = || {
            let file = path("HF_TOKEN_PATH").unwrap_or_else(|| folder.join("token"));
            std::fs::read_to_string(file).ok()
        };
        let token = match is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            true => None,
            false => given("HF_TOKEN").or_else(of_file),
        };
        let endpoint = given("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        // a line break would end the header
        let is_sound = |token: &String| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: path("HF_HUB_CACHE").unwrap_or_else(|| folder.join("hub")),
            token: token.map(|token| token.trim().to_owned()).filter(is_sound),
            is_offline: is_on("HF_HUB_OFFLINE"),
        }
    }
}

/// A path whose `~` is the home folder.
fn home(given: &impl Fn(&str) -> Option<String>, path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), given("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => path.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_mean_what_they_mean_to_python() {
        let of = |pairs: &[(&str, &str)]| {
            Settings::of(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
        };
        let plain = of(&[("HOME", "/home/me")]);
        assert_eq!(plain.cache, PathBuf::from("/home/me/.cache/huggingface/hub"));
        assert_eq!((plain.endpoint.as_str(), plain.is_offline), ("https://huggingface.co", false));
        assert_eq!(of(&[("HOME", "/h"), ("HF_HOME", "~/hf")]).cache, PathBuf::from("/h/hf/hub"));
        assert_eq!(of(&[("XDG_CACHE_HOME", "/x")]).cache, PathBuf::from("/x/huggingface/hub"));
        let all = of(&[
            ("HF_ENDPOINT", "http://localhost:9/"),
            ("HF_HUB_CACHE", "/c"),
            ("HF_HOME", "/h"),
            ("HF_TOKEN", " secret\n"),
            ("HF_HUB_OFFLINE", "True"),
        ]);
        assert_eq!((all.endpoint.as_str(), all.cache.clone()), ("http://localhost:9", PathBuf::from("/c")));
        assert_eq!((all.token.as_deref(), all.is_offline), (Some("secret"), true));
        assert!(!format!("{all:?}").contains("secret"));
        assert_eq!(of(&[("HF_TOKEN", "two\nlines")]).token, None);
    }
}
