//! Calls of libraries that read foreign files and must not end the program.
//!
//! A `tokenizer.json` is foreign, and the library that reads it panics on some of what such a file can say: on a
//! template that names a token which it does not define, on patterns that match nothing at all. What is known is
//! checked before ([`super::tokenizer_file`]); everything else arrives here, as an error.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether a panic of this thread is caught, so that nothing is printed about it.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// What `call` returns; its panic as an error that names the library and says what the panic said.
///
/// A caught panic prints nothing: the first call puts a hook before the one that is installed, which passes on
/// every panic of other code.
pub(super) fn guarded<T>(library: &str, call: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let installed = take_hook();
        set_hook(Box::new(move |panic| {
            if !CAUGHT.get() {
                installed(panic);
            }
        }));
    });
    let before = CAUGHT.replace(true);
    // What `call` borrows is read alone, or thrown away with the error.
    let result = catch_unwind(AssertUnwindSafe(call));
    CAUGHT.set(before);
    result.unwrap_or_else(|panic| Err(format!("the {library} library panics: {}", said(&*panic)).into()))
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&'static str>().copied());
    text.and_then(|text| text.lines().next()).unwrap_or("it does not say why")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_other_results_pass() {
        assert_eq!(guarded("tokenizers", || Ok(3)).expect("no panic"), 3);
        assert_eq!(guarded::<()>("tokenizers", || Err("no".into())).expect_err("an error").to_string(), "no");
        let caught = guarded::<()>("tokenizers", || panic!("index {} of 3\nmore", 7)).expect_err("a panic");
        assert_eq!(caught.to_string(), "the tokenizers library panics: index 7 of 3");
        assert!(!CAUGHT.get(), "later panics are shown");
    }
}
