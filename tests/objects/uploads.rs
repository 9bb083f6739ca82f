//! Uploads in parts work as in S3.

use crate::client::{Client, refusal, refused};
use crate::server::{Request, Server};

/// The least length of a part but the last.
const LEAST: usize = 5 << 20;

#[test]
fn an_upload_becomes_an_object_when_it_is_completed() {
    let server = Server::start();
    let bucket = server.bucket("data");
    bucket.put("out/k", b"before");
    let client = Client::new(&server, "data");
    let id = client.begin("out/k", "job 1");
    let (first, second) = (vec![b'1'; LEAST], b"second".to_vec());
    let second_tag = client.part("out/k", &id, 2, &second);
    let wrong = client.part("out/k", &id, 1, &vec![b'0'; LEAST + 1]);
    let first_tag = client.part("out/k", &id, 1, &first);
    assert_ne!(first_tag, wrong);
    assert_eq!((bucket.get("out/k").unwrap(), server.open_uploads()), (b"before".to_vec(), 1));
    let answer = client.complete("out/k", &id, &[&first_tag, &second_tag]).unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(server.open_uploads(), 0);
    let head = bucket.head("out/k").unwrap();
    assert_eq!(head.bytes, (LEAST + second.len()) as u64);
    assert_eq!(head.metadata, [("job".to_owned(), "job 1".to_owned())].into());
    assert!(head.etag.ends_with("-2\""), "{}", head.etag);
    assert!(bucket.get("out/k").unwrap() == [first, second].concat());
    let parts: Vec<_> = server.requests().iter().filter_map(Request::part).collect();
    assert_eq!(parts, [2, 1, 1]);
}

#[test]
fn an_empty_object_has_an_empty_part() {
    let server = Server::start();
    let bucket = server.bucket("data");
    let client = Client::new(&server, "data");
    let id = client.begin("k", "j");
    let part = client.part("k", &id, 1, b"");
    assert_eq!(client.complete("k", &id, &[&part]).unwrap().status(), 200);
    let head = bucket.head("k").unwrap();
    assert_eq!((head.bytes, head.metadata), (0, [("job".to_owned(), "j".to_owned())].into()));
}

#[test]
fn an_upload_that_has_ended_no_longer_exists() {
    let server = Server::start();
    let bucket = server.bucket("data");
    let client = Client::new(&server, "data");
    let gone = refused(404, "NoSuchUpload");
    let (aborted, completed) = (client.begin("k", "j"), client.begin("k2", "j"));
    assert_eq!(server.open_uploads(), 2);
    let part = client.part("k", &aborted, 1, b"text");
    assert_eq!(client.abort("k", &aborted).status(), 204);
    assert_eq!(client.part("k2", &completed, 1, b"text"), part);
    assert_eq!(client.complete("k2", &completed, &[&part]).unwrap().status(), 200);
    for (key, id) in [("k", &aborted), ("k2", &completed)] {
        // The answer arrives although the server did not want the part.
        assert_eq!(refusal(client.send_part(key, id, 1, &[b'1'; LEAST])), gone);
        assert_eq!(refusal(client.complete(key, id, &[&part]).unwrap()), gone);
        assert_eq!(refusal(client.abort(key, id)), gone);
    }
    assert_eq!((server.open_uploads(), bucket.keys("")), (0, vec!["k2".to_owned()]));
}

#[test]
fn a_completion_with_wrong_parts_leaves_the_upload_open() {
    let server = Server::start();
    let bucket = server.bucket("data");
    let client = Client::new(&server, "data");
    let id = client.begin("k", "j");
    let complete = |etags: &[&str]| refusal(client.complete("k", &id, etags).unwrap());
    let last = client.part("k", &id, 2, b"last");
    assert_eq!(complete(&[&last, &last]), refused(400, "InvalidPart"));
    let short = client.part("k", &id, 1, b"short");
    assert_eq!(complete(&[&short, &last]), refused(400, "EntityTooSmall"));
    let long = client.part("k", &id, 1, &vec![b'1'; LEAST]);
    assert_eq!(complete(&[&short, &last]), refused(400, "InvalidPart"));
    assert_eq!(complete(&[&long, &long]), refused(400, "InvalidPart"));
    assert_eq!(complete(&[]).0, 400);
    assert_eq!((server.open_uploads(), bucket.head("k")), (1, None));
    assert_eq!(client.complete("k", &id, &[&long, &last]).unwrap().status(), 200);
    assert_eq!(bucket.head("k").unwrap().bytes, LEAST as u64 + 4);
}

#[test]
fn an_upload_needs_a_bucket() {
    let server = Server::start();
    let client = Client::new(&server, "data");
    let url = client.signer.create_multipart_upload(Some(&client.credentials), "k");
    let url = rusty_s3::S3Action::sign(&url, crate::client::VALID);
    assert_eq!(refusal(client.agent.post(url.as_str()).send_empty().unwrap()), refused(404, "NoSuchBucket"));
    assert_eq!(server.open_uploads(), 0);
}
