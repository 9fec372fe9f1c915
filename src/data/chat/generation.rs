//! Marks of what the assistant generates (`{% generation %}`), which transformers adds to the language of templates.
//!
//! transformers turns a marked block into a call with the block as its body. The same is done here: the tag is written
//! as `{% call NAME() %}`, whose function puts marks around what its body gives, and the marks are taken out of the
//! rendered text again. So the block has the scope and the white space that it has there.

use std::ops::Range;

/// The function that a marked block calls.
pub(super) const FUNCTION: &str = "__generation__";

/// Whether a template has marks, and the template with its marked blocks as calls.
pub(super) fn with_calls(template: &str) -> (String, bool) {
    let (mut written, mut rest, mut marked) = (String::with_capacity(template.len()), template, false);
    while let Some(at) = rest.find('{') {
        let (before, tag) = rest.split_at(at);
        written += before;
        let length = match tag.as_bytes().get(1) {
            Some(b'#') => tag.find("#}").map_or(tag.len(), |end| end + 2),
            Some(b'{') => end_of_tag(tag, "}}"),
            Some(b'%') => end_of_tag(tag, "%}"),
            _ => 1,
        };
        let (tag, behind) = tag.split_at(length);
        rest = behind;
        match name(tag) {
            Some("generation") => {
                written += &tag.replacen("generation", &format!("call {FUNCTION}()"), 1);
                marked = true;
            }
            Some("endgeneration") => written += &tag.replacen("endgeneration", "endcall", 1),
            Some("raw") => {
                written += tag;
                let end = end_of_raw(rest);
                let (text, behind) = rest.split_at(end);
                written += text;
                rest = behind;
            }
            _ => written += tag,
        }
    }
    written += rest;
    (written, marked)
}

/// The name of a tag `{% name … %}` without arguments.
fn name(tag: &str) -> Option<&str> {
    let tag = tag.strip_prefix("{%")?.strip_suffix("%}")?;
    Some(tag.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim())
}

/// Where a tag ends, behind its closing marks; texts in it may hold such marks.
fn end_of_tag(tag: &str, closing: &str) -> usize {
    let bytes = tag.as_bytes();
    let (mut at, mut quote) = (2, None);
    while at < bytes.len() {
        match (bytes[at], quote) {
            (b'\\', Some(_)) => at += 1,
            (byte, Some(open)) if byte == open => quote = None,
            (byte @ (b'"' | b'\''), None) => quote = Some(byte),
            (_, None) if bytes[at..].starts_with(closing.as_bytes()) => return at + closing.len(),
            _ => {}
        }
        at += 1;
    }
    tag.len()
}

/// Where the tag that ends a raw block begins.
fn end_of_raw(text: &str) -> usize {
    let mut from = 0;
    while let Some(at) = text[from..].find("{%") {
        let at = from + at;
        if let Some(end) = text[at..].find("%}")
            && name(&text[at..at + end + 2]) == Some("endraw")
        {
            return at;
        }
        from = at + 2;
    }
    text.len()
}

/// The two marks, which no text of people holds: noncharacters of Unicode around digits of the template's hash.
#[derive(Debug, Clone)]
pub(super) struct Marks {
    pub(super) begin: String,
    pub(super) end: String,
}

impl Marks {
    pub(super) fn of(template: &str) -> Self {
        let digits = blake3::hash(template.as_bytes()).to_hex()[..16].to_owned();
        Self { begin: format!("\u{FDD0}{digits}\u{FDD1}"), end: format!("\u{FDD0}{digits}\u{FDD2}") }
    }

    /// A rendered text without its marks, and the parts of it that stood between two, in order. An inner pair counts as
    /// a part of the outer.
    pub(super) fn taken_out(&self, text: &str) -> (String, Vec<Range<usize>>) {
        let (mut plain, mut spans, mut rest) = (String::with_capacity(text.len()), Vec::new(), text);
        let mut open: Vec<usize> = Vec::new();
        while let Some(at) = rest.find('\u{FDD0}') {
            let (before, tail) = rest.split_at(at);
            plain += before;
            if let Some(behind) = tail.strip_prefix(&self.begin) {
                open.push(plain.len());
                rest = behind;
            } else if let Some(behind) = tail.strip_prefix(&self.end) {
                if let (Some(start), true) = (open.pop(), open.is_empty()) {
                    spans.push(start..plain.len());
                }
                rest = behind;
            } else {
                plain.push('\u{FDD0}');
                rest = &tail['\u{FDD0}'.len_utf8()..];
            }
        }
        plain += rest;
        (plain, spans)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tags_of_generation_become_calls() {
        let call = format!("call {FUNCTION}()");
        for (template, written) in [
            ("a{% generation %}b{% endgeneration %}c", format!("a{{% {call} %}}b{{% endcall %}}c")),
            ("{%- generation -%}b{%+endgeneration-%}", format!("{{%- {call} -%}}b{{%+endcall-%}}")),
            ("{{ '{% generation %}' }}", "{{ '{% generation %}' }}".into()),
            ("{# {% generation %} #}", "{# {% generation %} #}".into()),
            ("{% raw %}{% generation %}{% endraw %}", "{% raw %}{% generation %}{% endraw %}".into()),
            ("{% set generation = '%}' %}{% if generation %}", "{% set generation = '%}' %}{% if generation %}".into()),
            ("{{ \"\\\"}}{% generation %}\" }}", "{{ \"\\\"}}{% generation %}\" }}".into()),
            ("{ {% generation", "{ {% generation".into()),
        ] {
            let (found, marked) = with_calls(template);
            assert_eq!(found, written);
            assert_eq!(marked, found != template, "{template}");
        }
    }

    #[test]
    fn marks_are_taken_out_and_their_places_kept() {
        let marks = Marks::of("x");
        let (b, e) = (&marks.begin, &marks.end);
        let (text, spans) = marks.taken_out(&format!("ü{b}ab{e}\u{FDD0}c{b}{e}{b}d{b}e{e}f{e}"));
        assert_eq!(text, "üab\u{FDD0}cdef");
        assert_eq!(spans, [2..4, 8..8, 8..11]);
        assert_eq!(Marks::of("y").taken_out(b).0, *b, "another template's marks are text");
    }
}
