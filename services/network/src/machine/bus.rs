//! The real daemons, over D-Bus. The connection lives for one call: they are
//! rare, and an idle connection costs memory.

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use zbus::{
    Connection, Message,
    zvariant::{DynamicType, OwnedValue, Type},
};

use super::{DaemonError, Daemons};

/// Reloading waits until networkd has looked at every link, which takes long on
/// an emulated machine. polkit and the daemons may have to be started as well.
const PATIENCE: Duration = Duration::from_secs(60);

/// The system's message bus.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SystemBus;

/// One daemon's object.
struct Object {
    service: &'static str,
    path: &'static str,
    interface: &'static str,
}

const NETWORKD: Object = Object {
    service: "org.freedesktop.network1",
    path: "/org/freedesktop/network1",
    interface: "org.freedesktop.network1.Manager",
};
const HOSTNAMED: Object = Object {
    service: "org.freedesktop.hostname1",
    path: "/org/freedesktop/hostname1",
    interface: "org.freedesktop.hostname1",
};
const TIMEDATED: Object = Object {
    service: "org.freedesktop.timedate1",
    path: "/org/freedesktop/timedate1",
    interface: "org.freedesktop.timedate1",
};
const RESOLVED: Object = Object {
    service: "org.freedesktop.resolve1",
    path: "/org/freedesktop/resolve1",
    interface: "org.freedesktop.resolve1.Manager",
};
const SYSTEMD: Object = Object {
    service: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};

#[async_trait]
impl Daemons for SystemBus {
    async fn reload_networkd(&self) -> Result<(), DaemonError> {
        let action = "reload networkd";
        within(action, async { call(&NETWORKD, "Reload", &()).await.map(drop) }).await
    }

    async fn set_hostname(&self, name: &str) -> Result<(), DaemonError> {
        let work = async {
            let current: String = property(&HOSTNAMED, "StaticHostname").await?;
            if current != name {
                call(&HOSTNAMED, "SetStaticHostname", &(name, false)).await?;
            }
            Ok(())
        };
        within("set the host name", work).await
    }

    async fn product_uuid(&self) -> Result<String, DaemonError> {
        let work = async {
            let octets: Vec<u8> = call(&HOSTNAMED, "GetProductUUID", &(false,)).await?.body().deserialize()?;
            Ok(format_uuid(&octets))
        };
        within("read the firmware's product UUID", work).await
    }

    async fn set_timezone(&self, zone: &str) -> Result<(), DaemonError> {
        let work = async {
            let current: String = property(&TIMEDATED, "Timezone").await?;
            if current != zone {
                call(&TIMEDATED, "SetTimezone", &(zone, false)).await?;
            }
            Ok(())
        };
        within("set the time zone", work).await
    }

    async fn start_time_sync(&self, servers_changed: bool) -> Result<(), DaemonError> {
        let method = if servers_changed { "RestartUnit" } else { "StartUnit" };
        let work = async { call(&SYSTEMD, method, &("systemd-timesyncd.service", "replace")).await.map(drop) };
        within("start the time synchronisation", work).await
    }

    async fn flush_dns(&self) -> Result<(), DaemonError> {
        within("flush the DNS cache", async { call(&RESOLVED, "FlushCaches", &()).await.map(drop) }).await
    }
}

async fn within<T>(action: &'static str, work: impl Future<Output = zbus::Result<T>>) -> Result<T, DaemonError> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(DaemonError::Refused { action, reason: reason(&error) }),
        Err(_) => Err(DaemonError::Silent { action, seconds: PATIENCE.as_secs() }),
    }
}

/// What a person can use of a bus error: the daemon's own sentence.
fn reason(error: &zbus::Error) -> String {
    match error {
        zbus::Error::MethodError(name, text, _) => text.clone().unwrap_or_else(|| name.to_string()),
        other => other.to_string(),
    }
}

async fn call<B>(object: &Object, method: &str, body: &B) -> zbus::Result<Message>
where
    B: Serialize + DynamicType + Sync,
{
    let bus = Connection::system().await?;
    bus.call_method(Some(object.service), object.path, Some(object.interface), method, body).await
}

async fn property<T>(object: &Object, name: &str) -> zbus::Result<T>
where
    T: DeserializeOwned + Type + TryFrom<OwnedValue>,
{
    let bus = Connection::system().await?;
    let body = (object.interface, name);
    let properties = Some("org.freedesktop.DBus.Properties");
    let answer = bus.call_method(Some(object.service), object.path, properties, "Get", &body).await?;
    let value: OwnedValue = answer.body().deserialize()?;
    T::try_from(value).map_err(|_| zbus::Error::Failure(format!("property {name} has another type")))
}

fn format_uuid(octets: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (index, octet) in octets.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{octet:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn uuid_is_written_in_groups() {
        let octets: Vec<u8> = (0..16).collect();
        assert_eq!(super::format_uuid(&octets), "00010203-0405-0607-0809-0a0b0c0d0e0f");
    }
}
