//! The report as one page of HTML.

use anyhow::Context;
use askama::Template;
use sha2::{Digest, Sha256};

use super::model::Report;

const STYLE: &str = include_str!("../../templates/report.css");
const SCRIPT: &str = include_str!("../../templates/report.js");

/// The page; every text of the report is escaped by the template.
#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    report: &'a Report,
    policy: String,
    style: &'a str,
    script: &'a str,
}

/// Writes the page.
///
/// # Errors
/// None that is known: everything is text.
pub(super) fn page(report: &Report) -> anyhow::Result<String> {
    let images = if report.has_pictures() { "img-src data:; " } else { "" };
    let policy = format!(
        "default-src 'none'; {images}style-src {}; script-src {}; base-uri 'none'; form-action 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    Page { report, policy, style: STYLE, script: SCRIPT }.render().context("the report cannot be written")
}

/// How a content security policy names a text.
fn hash(text: &str) -> String {
    format!("'sha256-{}'", base64::encode(Sha256::digest(text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification of content security policies, level 3, section 8.3.
    #[test]
    fn hashes_are_those_of_the_specification() {
        assert_eq!(hash("doSubmit()"), "'sha256-jzgBGA4UWFFmpOBq0JpdsySukE1FrEN5bUpoK8Z29fY='");
    }

    /// A closing tag in a style or script would end it early.
    #[test]
    fn style_and_script_hold_no_markup() {
        assert!(!STYLE.contains('<') && !SCRIPT.contains("</") && !SCRIPT.contains("<!--"));
    }
}
