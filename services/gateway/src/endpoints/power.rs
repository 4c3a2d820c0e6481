//! Power. The supervisor answers first and acts later, so that the client sees the answer.

use api::v1::{PowerRequest, power_request::Action};

use crate::{answer::Answer, dispatch::Call, failure::Failure};

pub(crate) async fn poweroff(call: Call) -> Result<Answer, Failure> {
    power(&call, Action::Poweroff).await
}

pub(crate) async fn reboot(call: Call) -> Result<Answer, Failure> {
    power(&call, Action::Reboot).await
}

pub(crate) async fn suspend(call: Call) -> Result<Answer, Failure> {
    power(&call, Action::Suspend).await
}

async fn power(call: &Call, action: Action) -> Result<Answer, Failure> {
    let mut supervisor = call.gateway.owners.supervisor.clone();
    call.owner(supervisor.power(PowerRequest { action: action.into() })).await?;
    Ok(Answer::Empty)
}
