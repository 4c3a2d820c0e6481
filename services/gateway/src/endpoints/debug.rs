//! `debug`: looking at the machine. No stability promise, but the same keys.

use api::v1::Empty;
use http::{HeaderValue, StatusCode};
use runner::{Call as Program, Tool};

use crate::{
    answer::{self, Answer},
    dispatch::Call,
    failure::Failure,
    journal::{self, EXPORT, Filter, Format},
    kernel,
};

type Outcome = Result<Answer, Failure>;

pub(crate) async fn kernel(call: Call) -> Outcome {
    Ok(Answer::document(&kernel::describe(&call.gateway.machine)))
}

/// The process list. The command line of a process may hold any bytes.
pub(crate) async fn processes(call: Call) -> Outcome {
    let listed = call.gateway.runner.run(&Program::new(Tool::Ps, ["fauxww"])).await?.success()?;
    Ok(Answer::document(&String::from_utf8_lossy(&listed)))
}

/// The journal, as a JSON list in the envelope or in the journal's own export
/// format, whichever the client asks for.
pub(crate) async fn log(call: Call) -> Outcome {
    let filter = Filter::from_query(&call.query).map_err(|defect| Failure::bad_request(defect.to_string()))?;
    let export = call.accepts(EXPORT);
    let follow = call.query.switch("follow");
    let format = match (export, follow) {
        (true, true) => Format::ExportAndFollow,
        (true, false) => Format::Export,
        (false, false) => Format::JsonList,
        (false, true) => {
            return Err(Failure::bad_request(format!("`follow` needs the header `Accept: {EXPORT}`")));
        }
    };
    let readers = call.gateway.journal_readers.clone();
    let reader = readers
        .try_acquire_owned()
        .map_err(|_| Failure::new(StatusCode::SERVICE_UNAVAILABLE, "the journal has too many readers right now"))?;
    let chunks = journal::open(&call.gateway, &filter, format, reader).await?;
    Ok(match format {
        Format::JsonList => answer::json_stream(chunks),
        Format::Export | Format::ExportAndFollow => Answer::Stream(HeaderValue::from_static(EXPORT), chunks),
    })
}

pub(crate) async fn event_log(call: Call) -> Outcome {
    let mut security = call.gateway.owners.security.clone();
    Ok(Answer::document(&call.owner(security.get_event_log(Empty {})).await?))
}
