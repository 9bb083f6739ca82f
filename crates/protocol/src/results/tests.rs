use super::*;
use proptest::prelude::*;

proptest! {
    #[test]
    fn batches_read_back_as_written(
        number: u64, first_row: u64, rejected in 0u32..50, more in 0u32..50, worker: u32,
        schema in prop::collection::vec(any::<u8>(), 0..50),
        results in prop::collection::vec(any::<u8>(), 0..500),
        rejects in prop::collection::vec(any::<u8>(), 0..500),
    ) {
        let batch = ResultBatch {
            number, first_row, rows: rejected + more, rejected, worker, schema: Bytes::from(schema),
            results: Bytes::from(results), rejects: Bytes::from(rejects),
        };
        let mut stream = Vec::new();
        write_batches(&mut stream, &[batch.clone(), batch.clone()]).unwrap();
        let decoded: Vec<_> = frame::payloads(&stream)
            .map(|p| ToReceiver::decode(Bytes::copy_from_slice(p)).unwrap())
            .collect();
        prop_assert_eq!(decoded, vec![ToReceiver::Batch(batch.clone()), ToReceiver::Batch(batch)]);
    }

    #[test]
    fn acknowledgements_read_back_as_written(
        next: u64,
        held: u64,
        received in prop::collection::vec(any::<(u32, u64)>(), 0..20),
    ) {
        let message = FromReceiver::Acknowledgement(Acknowledgement { next, received, held });
        let mut stream = Vec::new();
        message.write(&mut stream).unwrap();
        let payload = Bytes::from(stream.split_off(frame::PREFIX));
        prop_assert_eq!(FromReceiver::decode(payload).unwrap(), message);
    }

    #[test]
    fn noise_is_an_error_unless_it_encodes_a_message_exactly(
        kind in prop_oneof![
            Just(BATCH), Just(TOTALS), Just(IDENTITY), Just(FAILURE), Just(ACKNOWLEDGEMENT), Just(OUTCOME), Just(NOTED), any::<u8>()
        ],
        noise in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let payload = [&[kind][..], &noise].concat();
        let bytes = || Bytes::from(payload.clone());
        let written = |stream: &[u8]| frame::payloads(stream).map(<[u8]>::to_vec).collect::<Vec<_>>();
        let is_json = || serde_json::from_slice::<serde_json::Value>(&noise).is_ok();
        match ToReceiver::decode(bytes()) {
            Ok(ToReceiver::Batch(batch)) => {
                let mut stream = Vec::new();
                write_batches(&mut stream, &[batch]).unwrap();
                prop_assert_eq!(written(&stream), [payload.clone()]);
            }
            Ok(_) => prop_assert!(is_json()),
            // A batch's lengths and counts may be wrong.
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
        match FromReceiver::decode(bytes()) {
            Ok(FromReceiver::Acknowledgement(ack)) => {
                let mut stream = Vec::new();
                FromReceiver::Acknowledgement(ack).write(&mut stream).unwrap();
                prop_assert_eq!(written(&stream), [payload.clone()]);
            }
            Ok(FromReceiver::Outcome(_)) => prop_assert!(is_json()),
            Ok(FromReceiver::Noted) => prop_assert_eq!(&payload, &[NOTED]),
            // Any payload of the right length is an acknowledgement.
            Err(_) => prop_assert!(
                kind != ACKNOWLEDGEMENT || noise.len() < 16 || !(noise.len() - 16).is_multiple_of(12)
            ),
        }
    }
}

#[test]
fn cut_unknown_and_empty_payloads_are_errors() {
    let batch =
        ResultBatch { number: 1, rows: 2, results: Bytes::from_static(b"a\nb\n"), ..ResultBatch::default() };
    let mut stream = Vec::new();
    write_batches(&mut stream, &[batch]).unwrap();
    let payload = frame::payloads(&stream).next().unwrap();
    ToReceiver::decode(Bytes::copy_from_slice(payload)).unwrap();
    for length in 0..payload.len() {
        let cut = Bytes::copy_from_slice(&payload[..length]);
        assert!(ToReceiver::decode(cut.clone()).is_err(), "{length}");
        assert!(FromReceiver::decode(cut).is_err(), "{length}");
    }
    let known = [BATCH, TOTALS, IDENTITY, FAILURE, ACKNOWLEDGEMENT, OUTCOME, NOTED];
    for kind in (0..=u8::MAX).filter(|kind| !known.contains(kind)) {
        let unknown = Bytes::from([&[kind][..], &[0; 60]].concat());
        assert!(ToReceiver::decode(unknown.clone()).is_err() && FromReceiver::decode(unknown).is_err());
    }
}
