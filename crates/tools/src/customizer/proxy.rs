//! The address of a client behind a load balancer, which may say it in front of
//! everything else (PROXY protocol, versions 1 and 2). It is only ever logged, so
//! it does not matter that everybody may say so.

use std::{
    io::{self, Cursor},
    net::SocketAddr,
};

use ppp::{HeaderResult, PartialResult as _, v1, v2};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, join},
    net::TcpStream,
};

/// How the two versions start.
const SIGNATURES: [&[u8]; 2] = [b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"];

/// Bytes of the line of version 1, at most.
const LINE_LIMIT: usize = 107;

/// Bytes of either, at most.
const LIMIT: usize = 4096;

/// The connection behind what the load balancer said, and the client's address.
pub(crate) async fn behind(
    stream: TcpStream,
    peer: SocketAddr,
) -> io::Result<(impl AsyncRead + AsyncWrite + Unpin + Send + 'static, SocketAddr)> {
    let (mut read, write) = stream.into_split();
    let mut head = Vec::new();
    let client = loop {
        match said(&head) {
            Said::More if head.len() < LIMIT => {}
            Said::More => return Err(io::Error::new(io::ErrorKind::InvalidData, "the PROXY header does not end")),
            Said::Nothing => break peer,
            Said::Client(length, client) => {
                head.drain(..length);
                break client.unwrap_or(peer);
            }
        }
        if read.read_buf(&mut head).await? == 0 {
            break peer;
        }
    };
    Ok((join(Cursor::new(head).chain(read), write), client))
}

/// What the first bytes of a connection say of the client.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// It cannot be told yet.
    More,
    Nothing,
    /// That many bytes name the client, or nobody.
    Client(usize, Option<SocketAddr>),
}

fn said(head: &[u8]) -> Said {
    let starts = |signature: &&[u8]| head.iter().zip(*signature).all(|(byte, wanted)| byte == wanted);
    let Some(signature) = SIGNATURES.iter().find(|signature| starts(signature)) else {
        return Said::Nothing;
    };
    if head.len() < signature.len() {
        return Said::More;
    }
    // Half of a number is a number too, so the line of version 1 is looked at as a whole.
    if *signature == SIGNATURES[0] && !head.windows(2).any(|end| end == b"\r\n") {
        return if head.len() < LINE_LIMIT { Said::More } else { Said::Nothing };
    }
    let header = HeaderResult::parse(head);
    if header.is_incomplete() {
        return Said::More;
    }
    match header {
        HeaderResult::V1(Ok(header)) => {
            let client = match header.addresses {
                v1::Addresses::Tcp4(pair) => Some((pair.source_address, pair.source_port).into()),
                v1::Addresses::Tcp6(pair) => Some((pair.source_address, pair.source_port).into()),
                v1::Addresses::Unknown => None,
            };
            Said::Client(header.header.len(), client)
        }
        HeaderResult::V2(Ok(header)) => {
            let client = match header.addresses {
                v2::Addresses::IPv4(pair) => Some((pair.source_address, pair.source_port).into()),
                v2::Addresses::IPv6(pair) => Some((pair.source_address, pair.source_port).into()),
                _ => None,
            };
            Said::Client(header.len(), client)
        }
        // The server refuses it as what it is: no HTTP.
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Said::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_versions_name_the_client_and_http_does_not() {
        let line = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n";
        let client = Some("192.0.2.7:4711".parse().unwrap());
        assert_eq!(said(&[line.as_slice(), b"GET / HTTP/1.1\r\n"].concat()), Said::Client(line.len(), client));
        assert_eq!(said(b"PROXY UNKNOWN\r\n"), Said::Client(15, None));
        let mut binary = SIGNATURES[1].to_vec();
        binary.extend([0x21, 0x11, 0, 12, 192, 0, 2, 7, 192, 0, 2, 1, 0x12, 0x67, 1, 0xbb]);
        assert_eq!(said(&binary), Said::Client(28, client));
        for (whole, start) in [(line.as_slice(), 1), (&binary, 1)] {
            for end in start..whole.len() {
                assert_eq!(said(&whole[..end]), Said::More, "{end} bytes of {whole:?}");
            }
        }
        for other in ["GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\n", "PROXY nonsense\r\n", "PRI * HTTP/2.0\r\n\r\n"] {
            assert_eq!(said(other.as_bytes()), Said::Nothing, "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(tail in proptest::collection::vec(any::<u8>(), 0..100), version in 0..2_usize) {
            said(&tail);
            said(&[SIGNATURES[version], &tail].concat());
        }
    }
}
