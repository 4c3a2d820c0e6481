//! Neighbours on the wire, from networkd's Varlink interface.

use std::{collections::BTreeMap, io, path::Path, time::Duration};

use api::v1::NetworkLldpState;
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use super::Roots;

const CALL: &[u8] = b"{\"method\":\"io.systemd.Network.GetLLDPNeighbors\",\"parameters\":{}}\0";
const PATIENCE: Duration = Duration::from_secs(2);
/// Largest answer that is read.
const LIMIT: usize = 1 << 20;

/// Neighbours by the kernel's name of the card they are seen on; none when
/// networkd does not answer.
pub(crate) async fn neighbours(roots: &Roots) -> BTreeMap<String, Vec<NetworkLldpState>> {
    let socket = roots.run.join("systemd/netif/io.systemd.Network");
    match tokio::time::timeout(PATIENCE, ask(&socket)).await {
        Ok(Ok(answer)) => parse(&answer),
        Ok(Err(error)) => {
            tracing::warn!("networkd did not tell its LLDP neighbours: {error}");
            BTreeMap::new()
        }
        Err(_) => {
            tracing::warn!("networkd did not tell its LLDP neighbours in time");
            BTreeMap::new()
        }
    }
}

async fn ask(socket: &Path) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(CALL).await?;
    let mut answer = Vec::new();
    while answer.last() != Some(&0) {
        if answer.len() > LIMIT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
        }
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    answer.pop();
    Ok(answer)
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Parameters {
    #[serde(rename = "Neighbors")]
    links: Vec<LinkNeighbours>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct LinkNeighbours {
    interface_name: String,
    neighbors: Vec<Neighbour>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Neighbour {
    #[serde(rename = "ChassisID")]
    chassis_id: String,
    #[serde(rename = "PortID")]
    port_id: String,
    #[serde(rename = "PortDescription")]
    port_description: String,
    #[serde(rename = "SystemName")]
    system_name: String,
}

fn parse(answer: &[u8]) -> BTreeMap<String, Vec<NetworkLldpState>> {
    let Ok(answer) = serde_json::from_slice::<Answer>(answer) else { return BTreeMap::new() };
    let state = |neighbour: Neighbour| NetworkLldpState {
        chassis_id: neighbour.chassis_id,
        name: neighbour.system_name,
        port_id: neighbour.port_id,
        port: neighbour.port_description,
    };
    let links = answer.parameters.links.into_iter();
    links.map(|link| (link.interface_name, link.neighbors.into_iter().map(state).collect())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_of_networkd() {
        let answer = br#"{"parameters":{"Neighbors":[{"InterfaceIndex":2,"InterfaceName":"_p020000000a01","InterfaceAlternativeNames":["enp5s0"],"Neighbors":[{"ChassisID":"00:11:22:33:44:55","RawChassisID":[4,0],"PortID":"ge-0/0/1","RawPortID":[5],"PortDescription":"uplink","SystemName":"switch1","SystemDescription":"x","EnabledCapabilities":20}]}]}}"#;
        let parsed = parse(answer);
        let expected = NetworkLldpState {
            chassis_id: "00:11:22:33:44:55".into(),
            name: "switch1".into(),
            port_id: "ge-0/0/1".into(),
            port: "uplink".into(),
        };
        assert_eq!(parsed["_p020000000a01"], [expected]);
    }

    #[test]
    fn other_answers_have_no_neighbours() {
        for answer in [
            "",
            "{}",
            "[]",
            r#"{"error":"org.varlink.service.MethodNotFound","parameters":{}}"#,
            r#"{"parameters":{"Neighbors":[{}]}}"#,
        ] {
            assert!(parse(answer.as_bytes()).values().all(Vec::is_empty), "{answer}");
        }
    }
}
