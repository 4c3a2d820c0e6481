//! An error as a person reads it: with its causes, on one line.

use std::error::Error;

/// The error and all its causes, the outermost first.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        // A transparent error says the same as its source.
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{fmt, io};

    use super::*;

    #[derive(Debug)]
    struct Outer(&'static str, Option<Box<dyn Error>>);

    impl fmt::Display for Outer {
        fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str(self.0)
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref()
        }
    }

    #[test]
    fn causes_follow_the_error_and_nothing_is_said_twice() {
        let inner = || Box::new(io::Error::other("no space"));
        let table = [
            (Outer("cannot save", None), "cannot save"),
            (Outer("cannot save", Some(inner())), "cannot save: no space"),
            (Outer("no space", Some(inner())), "no space"),
            (
                Outer("cannot start", Some(Box::new(Outer("cannot save", Some(inner()))))),
                "cannot start: cannot save: no space",
            ),
        ];
        for (error, text) in table {
            assert_eq!(chain(&error), text);
        }
    }
}
