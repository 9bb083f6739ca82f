//! Checks handshakes, answers and messages: no peer is admitted without the token, a refusal reveals nothing, and a decoded
//! message encodes and decodes to the same again.

use std::fmt::Debug;

use bytes::Bytes;
use protocol::VERSION;
use protocol::frame::{self, PREFIX};
use protocol::handshake::{
    self, ControlHello, ControlMessage, DataHello, Refusal, ResultsHello, SenderHello, SourceAnswer,
};
use protocol::results::{self, FromReceiver, Outcome, Progress, ToReceiver, Welcome};
use protocol::token::Token;
use serde::Serialize;
use serde::de::DeserializeOwned;

const TOKEN: &str = "secret";

use crate::allocation::largest_allocation;
use crate::input::settings;

/// # Panics
/// If an invariant does not hold for this input.
pub fn check(input: &[u8]) {
    let Some(([kind], payload)) = settings(input) else { return };
    let (_, largest) = largest_allocation(|| match kind % 12 {
        0 => hello::<SenderHello>(payload),
        1 => hello::<ResultsHello>(payload),
        2 => hello::<ControlHello>(payload),
        3 => hello::<DataHello>(payload),
        4 => answer::<ControlMessage>(payload),
        5 => answer::<SourceAnswer>(payload),
        6 => answer::<Progress>(payload),
        7 => answer::<Welcome>(payload),
        8 | 9 => to_receiver(payload),
        _ => from_receiver(payload),
    });
    // Parsed JSON needs several times its length.
    assert!(
        largest <= (64 << 10) + 200 * payload.len(),
        "{largest} bytes for a payload of {}",
        payload.len()
    );
}

fn hello<T: Serialize + DeserializeOwned + Debug + PartialEq>(payload: &[u8]) {
    let token = Token::new(TOKEN);
    let sent: Option<serde_json::Value> =
        payload.strip_prefix(b"\x05").and_then(|json| serde_json::from_slice(json).ok());
    let field = |name: &str| sent.as_ref().and_then(|sent| sent.get(name));
    let shown = field("token").and_then(serde_json::Value::as_str);
    assert_eq!(handshake::is_hello(payload), payload.starts_with(b"\x05"));
    match handshake::check::<T>(payload, Some(&token)) {
        Ok(body) => {
            assert_eq!(shown, Some(TOKEN));
            assert_eq!(field("version").and_then(serde_json::Value::as_u64), Some(u64::from(VERSION)));
            let mut again = Vec::new();
            handshake::send(&mut again, Some(&token), &body).unwrap();
            assert_eq!(handshake::check::<T>(&again[PREFIX..], Some(&token)).unwrap(), body);
            assert_eq!(handshake::check::<T>(payload, None).unwrap(), body);
        }
        Err(Refusal { refused, .. }) if shown != Some(TOKEN) => {
            let allowed =
                ["the first frame is not a handshake of this protocol", "the token is missing or wrong"];
            assert!(allowed.contains(&refused.as_str()), "{refused}");
        }
        Err(Refusal { refused, .. }) => assert!(!refused.is_empty()),
    }
    // No input has this token.
    let token = Token::new("0c9f4f62-7d43-4a7e-8f0e-4bb1f2f6c1d5");
    let refusal = handshake::check::<T>(payload, Some(&token)).unwrap_err();
    assert!(!refusal.refused.contains(token.secret()));
}

fn answer<T: Serialize + DeserializeOwned + Debug + PartialEq>(payload: &[u8]) {
    let Ok(message) = handshake::answer::<T>(payload, "the peer") else { return };
    assert!(serde_json::from_slice::<Refusal>(payload).is_err(), "a refusal is not an answer");
    let mut again = Vec::new();
    handshake::send_json(&mut again, &message).unwrap();
    assert_eq!(handshake::answer::<T>(&again[PREFIX..], "the peer").unwrap(), message);
}

fn to_receiver(payload: &[u8]) {
    let Ok(message) = ToReceiver::decode(Bytes::copy_from_slice(payload)) else { return };
    let mut again = Vec::new();
    match &message {
        ToReceiver::Batch(batch) => {
            results::write_batches(&mut again, &[batch.clone(), batch.clone()]).unwrap();
            let twice: Vec<_> = frame::payloads(&again).collect();
            assert_eq!(twice, [payload, payload]);
            return;
        }
        ToReceiver::Failure(reason) => results::write_failure(&mut again, reason).unwrap(),
        ToReceiver::Totals(totals) => results::write_totals(&mut again, totals).unwrap(),
        ToReceiver::Identity(identity, terms) => {
            results::write_identity(&mut again, identity, terms.as_ref()).unwrap();
        }
    }
    assert_eq!(ToReceiver::decode(again.split_off(PREFIX).into()).unwrap(), message);
}

fn from_receiver(payload: &[u8]) {
    let Ok(message) = FromReceiver::decode(Bytes::copy_from_slice(payload)) else { return };
    let mut again = Vec::new();
    message.write(&mut again).unwrap();
    let again = Bytes::from(again.split_off(PREFIX));
    if let FromReceiver::Acknowledgement(_) = &message {
        assert_eq!(again, payload);
    }
    let mut decoded = FromReceiver::decode(again).unwrap();
    if let (FromReceiver::Outcome(Outcome::Done(decoded)), FromReceiver::Outcome(Outcome::Done(first))) =
        (&mut decoded, &message)
    {
        // The JSON parser may be off in a number's last digit.
        assert!((decoded.seconds - first.seconds).abs() <= first.seconds.abs() * 1e-12);
        decoded.seconds = first.seconds;
    }
    assert_eq!(decoded, message);
}
