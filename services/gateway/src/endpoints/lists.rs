//! Lists of URLs. Their order and length are part of the contract.

use crate::{answer::Answer, dispatch::Call, failure::Failure};

type Outcome = Result<Answer, Failure>;

pub(crate) async fn versions(call: Call) -> Outcome {
    Ok(Answer::document(&[call.root.as_str()]))
}

/// Nothing can be installed yet, so there is nothing to list.
pub(crate) async fn applications(_: Call) -> Outcome {
    Ok(Answer::document(&[(); 0]))
}

/// `report` is newer than the clients that count five.
pub(crate) async fn debug(call: Call) -> Outcome {
    urls(&call, "debug", &["kernel", "log", "processes", ":run-script", "secureboot"])
}

pub(crate) async fn secureboot(call: Call) -> Outcome {
    urls(&call, "debug/secureboot", &["event-log"])
}

/// The services that this version supports: none yet.
pub(crate) async fn services(_: Call) -> Outcome {
    Ok(Answer::document(&[(); 0]))
}

/// `fallback-listener` is left out on purpose: clients count eight.
pub(crate) async fn system(call: Call) -> Outcome {
    const SECTIONS: [&str; 8] =
        ["kernel", "logging", "network", "provider", "resources", "security", "storage", "update"];
    urls(&call, "system", &SECTIONS)
}

fn urls(call: &Call, group: &str, names: &[&str]) -> Outcome {
    Ok(Answer::document(&names.iter().map(|name| call.root.url(group, name)).collect::<Vec<_>>()))
}
