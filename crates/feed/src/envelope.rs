//! The outer form of a signed message: S/MIME (RFC 8551), in the two forms that
//! feeds are published in.

use std::borrow::Cow;

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use crate::VerifyError;

/// A message taken apart. Nothing in it is trusted yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Envelope<'a> {
    /// The signed octets, when they stand beside the signature. Otherwise they are inside of it.
    pub(crate) content: Option<Cow<'a, [u8]>>,
    /// The DER of the signature.
    pub(crate) signature: Vec<u8>,
}

impl<'a> Envelope<'a> {
    /// Takes a message apart.
    pub(crate) fn parse(message: &'a [u8]) -> Result<Self, VerifyError> {
        let (header, body) = Header::split(message)?;
        match header.kind.as_str() {
            "multipart/signed" => {
                if !is_signature(&header.parameter("protocol").unwrap_or_default()) {
                    return Err(VerifyError::Envelope("its signature is not of the type application/pkcs7-signature"));
                }
                let boundary = header.parameter("boundary").filter(|text| !text.is_empty() && text.len() <= 70);
                let boundary = boundary.ok_or(VerifyError::Envelope("it has no boundary between its parts"))?;
                Self::multipart(body, &boundary)
            }
            "application/x-pkcs7-mime" | "application/pkcs7-mime" => {
                if header.parameter("smime-type").is_some_and(|kind| kind != "signed-data") {
                    return Err(VerifyError::Envelope("it is not of the S/MIME type signed-data"));
                }
                Ok(Self { content: None, signature: unbase64(body)? })
            }
            _ => Err(VerifyError::Envelope("its content type is neither multipart/signed nor application/pkcs7-mime")),
        }
    }

    fn multipart(body: &'a [u8], boundary: &str) -> Result<Self, VerifyError> {
        let mut parts = Parts { rest: body, delimiter: format!("--{boundary}") };
        let unterminated = || VerifyError::Envelope("one of its parts does not end");
        // What comes before the first delimiter is a word to the reader.
        parts.next().ok_or_else(unterminated)?;
        let content = parts.next().ok_or_else(unterminated)?;
        let signature = parts.next().ok_or_else(unterminated)?;
        let (header, body) = Header::split(signature)?;
        if !is_signature(&header.kind) {
            return Err(VerifyError::Envelope("its second part is not a signature"));
        }
        Ok(Self { content: Some(with_crlf(content)), signature: unbase64(body)? })
    }
}

/// The document in the signed entity, which is itself a MIME part.
pub(crate) fn document(entity: &[u8]) -> Result<&[u8], VerifyError> {
    let (header, body) = Header::split(entity)?;
    match header.kind.as_str() {
        "text/plain" => Ok(body),
        _ => Err(VerifyError::Envelope("its content is not of the type text/plain")),
    }
}

fn is_signature(kind: &str) -> bool {
    matches!(kind.to_ascii_lowercase().as_str(), "application/x-pkcs7-signature" | "application/pkcs7-signature")
}

/// What separates parts: a line that starts with the delimiter. The line end before it belongs to it.
struct Parts<'a> {
    rest: &'a [u8],
    delimiter: String,
}

impl<'a> Parts<'a> {
    /// Everything up to the next delimiter, which is skipped with its line.
    fn next(&mut self) -> Option<&'a [u8]> {
        let mut start = 0;
        while start < self.rest.len() {
            let line = &self.rest[start..];
            let length = line.iter().position(|byte| *byte == b'\n').map_or(line.len(), |end| end + 1);
            let text = line[..length].trim_ascii_end();
            let is_delimiter =
                text.strip_prefix(self.delimiter.as_bytes()).is_some_and(|after| after.is_empty() || after == b"--");
            if is_delimiter {
                let part = &self.rest[..start];
                self.rest = &line[length..];
                let part = part.strip_suffix(b"\n").unwrap_or(part);
                return Some(part.strip_suffix(b"\r").unwrap_or(part));
            }
            start += length;
        }
        None
    }
}

/// What of a MIME header matters here.
struct Header {
    /// Content type in lower case, without parameters.
    kind: String,
    /// Its parameters, as they were written.
    parameters: String,
}

/// Bytes of a header, at most.
const HEADER_LIMIT: usize = 16 << 10;

impl Header {
    /// Separates the header from the body.
    fn split(entity: &[u8]) -> Result<(Self, &[u8]), VerifyError> {
        let mut fields: Vec<String> = Vec::new();
        let mut at = 0;
        loop {
            let line = &entity[at..];
            let end = line.iter().take(HEADER_LIMIT).position(|byte| *byte == b'\n');
            let length = end.ok_or(VerifyError::Envelope("a header does not end"))? + 1;
            at += length;
            if at > HEADER_LIMIT {
                return Err(VerifyError::Envelope("a header does not end"));
            }
            let text =
                std::str::from_utf8(&line[..length]).map_err(|_| VerifyError::Envelope("a header is not text"))?;
            let text = text.trim_end();
            match fields.last_mut() {
                _ if text.is_empty() => break,
                Some(last) if text.starts_with([' ', '\t']) => last.push_str(text),
                _ => fields.push(text.to_owned()),
            }
        }
        let kinds: Vec<_> = fields
            .iter()
            .filter_map(|field| field.split_once(':'))
            .filter(|(name, _)| name.eq_ignore_ascii_case("content-type"))
            .collect();
        let [(_, value)] = kinds[..] else {
            return Err(VerifyError::Envelope("a part does not have exactly one content type"));
        };
        let (kind, parameters) = value.split_once(';').unwrap_or((value, ""));
        let header = Self { kind: kind.trim().to_ascii_lowercase(), parameters: parameters.to_owned() };
        Ok((header, &entity[at..]))
    }

    /// The value of a parameter, without its quotes.
    fn parameter(&self, wanted: &str) -> Option<String> {
        let mut rest = self.parameters.as_str();
        loop {
            let (name, after) = rest.split_once('=')?;
            let after = after.trim_start();
            let (value, next) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_at(after.find(';').unwrap_or(after.len())),
            };
            if name.trim().eq_ignore_ascii_case(wanted) {
                return Some(value.trim().to_owned());
            }
            rest = next.trim_start().trim_start_matches(';');
        }
    }
}

/// Line ends as they are signed.
fn with_crlf(text: &[u8]) -> Cow<'_, [u8]> {
    let is_bare = |at: usize| text[at] == b'\n' && (at == 0 || text[at - 1] != b'\r');
    if !(0..text.len()).any(is_bare) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len() + 64);
    for (at, byte) in text.iter().enumerate() {
        if is_bare(at) {
            out.push(b'\r');
        }
        out.push(*byte);
    }
    Cow::Owned(out)
}

/// Base64 in lines.
fn unbase64(text: &[u8]) -> Result<Vec<u8>, VerifyError> {
    const ENGINE: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
    );
    let bare: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    ENGINE.decode(bare).map_err(|_| VerifyError::Envelope("its signature is not in base64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAR: &str = "MIME-Version: 1.0\nContent-Type: multipart/signed; protocol=\"application/x-pkcs7-signature\"; \
        micalg=\"sha-256\";\n boundary=\"----AB\"\n\nThis is an S/MIME signed message\n\n------AB\n\
        Content-Type: text/plain\n\n{}\n\n------AB\nContent-Type: application/x-pkcs7-signature; name=\"smime.p7s\"\n\
        Content-Transfer-Encoding: base64\n\nAAEC\nAw==\n\n------AB--\n\n";

    #[test]
    fn signed_octets_are_those_between_the_delimiters_with_crlf() {
        for message in [CLEAR.to_owned(), CLEAR.replace('\n', "\r\n")] {
            let envelope = Envelope::parse(message.as_bytes()).unwrap();
            let content = envelope.content.unwrap();
            assert_eq!(content, b"Content-Type: text/plain\r\n\r\n{}\r\n".as_slice());
            assert_eq!(envelope.signature, [0, 1, 2, 3]);
            assert_eq!(document(&content).unwrap(), b"{}\r\n");
        }
    }

    #[test]
    fn opaque_form_holds_only_the_signature() {
        let message = b"Content-Type: application/x-pkcs7-mime; smime-type=signed-data; name=\"x\"\n\nAAEC\nAw==\n";
        assert_eq!(Envelope::parse(message).unwrap(), Envelope { content: None, signature: vec![0, 1, 2, 3] });
    }

    #[test]
    fn other_forms_are_refused_with_their_reason() {
        for (from, to, reason) in [
            ("multipart/signed", "multipart/mixed", "neither multipart/signed"),
            ("protocol=\"application/x-pkcs7-signature\"", "protocol=\"application/pgp-signature\"", "of the type"),
            ("boundary=\"----AB\"", "b=\"----AB\"", "no boundary"),
            ("\n------AB--\n", "\n", "does not end"),
            ("Content-Type: application/x-pkcs7-signature; name", "Content-Type: text/plain; name", "second part"),
            ("AAEC", "AA*C", "base64"),
            ("MIME-Version: 1.0\n", "Content-Type: text/plain\n", "exactly one content type"),
        ] {
            let message = CLEAR.replacen(from, to, 1);
            assert_ne!(message, CLEAR, "{from}");
            let error = Envelope::parse(message.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{reason}: {error}");
        }
        assert!(document(b"Content-Type: text/html\r\n\r\nx").is_err());
        assert!(document(b"Content-Type: text/plain; charset=utf-8\r\n\r\nx").is_ok());
    }
}
