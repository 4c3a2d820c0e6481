//! The sections of `system`: each document belongs to the service that shows it.

use api::v1::{Empty, SystemFallbackListener, SystemSecurity, SystemUpdate};

use crate::{answer::Answer, body, dispatch::Call, failure::Failure};

type Outcome = Result<Answer, Failure>;

/// Endpoints that show what their owner answers.
macro_rules! documents {
    ($($name:ident: $owner:ident.$method:ident;)*) => {
        $(
            pub(crate) async fn $name(call: Call) -> Outcome {
                let mut owner = call.gateway.owners.$owner.clone();
                Ok(Answer::document(&call.owner(owner.$method(Empty {})).await?))
            }
        )*
    };
}

documents! {
    builtin_certificates: security.get_builtin_certificates;
    fallback_listener: supervisor.get_fallback_listener;
    kernel: supervisor.get_kernel;
    logging: supervisor.get_logging;
    network: network.get;
    provider: update.get_provider;
    resources: supervisor.get_resources;
    security: security.get;
    storage: storage.get;
    update: update.get;
}

pub(crate) async fn put_fallback_listener(mut call: Call) -> Outcome {
    let config = body::config(call.body.take())?;
    let mut owner = call.gateway.owners.supervisor.clone();
    call.owner(owner.put_fallback_listener(SystemFallbackListener { config: Some(config), state: None })).await?;
    Ok(Answer::Empty)
}

pub(crate) async fn put_security(mut call: Call) -> Outcome {
    let config = body::config(call.body.take())?;
    let mut owner = call.gateway.owners.security.clone();
    call.owner(owner.put(SystemSecurity { config: Some(config), state: None })).await?;
    Ok(Answer::Empty)
}

pub(crate) async fn recovery_keys_retrieved(call: Call) -> Outcome {
    let mut owner = call.gateway.owners.security.clone();
    call.owner(owner.mark_recovery_keys_retrieved(Empty {})).await?;
    Ok(Answer::Empty)
}

pub(crate) async fn rebind_tpm(call: Call) -> Outcome {
    let mut owner = call.gateway.owners.security.clone();
    call.owner(owner.rebind_tpm(Empty {})).await?;
    Ok(Answer::Empty)
}

pub(crate) async fn put_update(mut call: Call) -> Outcome {
    let config = body::config(call.body.take())?;
    let mut owner = call.gateway.owners.update.clone();
    call.owner(owner.put(SystemUpdate { config: Some(config), state: None })).await?;
    Ok(Answer::Empty)
}

pub(crate) async fn flush_dns(call: Call) -> Outcome {
    let mut owner = call.gateway.owners.network.clone();
    call.owner(owner.flush_dns(Empty {})).await?;
    Ok(Answer::Empty)
}
