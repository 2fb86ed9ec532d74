//! The request body is JSON that says what was asked for, whatever the texts hold.

use proptest::prelude::{any, prop, prop_assert_eq, proptest};
use serde_json::{Value, json};
use tollway_core::embed::{BodyError, Request, embeddings_body};

const PLAIN: Request<'_> = Request {
    model: "m",
    dimensions: None,
    base64: false,
    extra: None,
};

#[test]
fn members_are_written_where_they_are_asked_for() {
    assert_eq!(
        embeddings_body(&PLAIN, &["a"]).unwrap(),
        br#"{"model":"m","input":["a"]}"#
    );
    assert_eq!(
        embeddings_body::<&str>(&PLAIN, &[]).unwrap(),
        br#"{"model":"m","input":[]}"#
    );
    let extra = Some(&b" {\"user\": \"u\"} "[..]);
    let all = Request {
        model: "m\"",
        dimensions: Some(256),
        base64: true,
        extra,
    };
    let body: Value = serde_json::from_slice(&embeddings_body(&all, &["a", "b"]).unwrap()).unwrap();
    let expected = json!({
        "model": "m\"", "input": ["a", "b"], "dimensions": 256,
        "encoding_format": "base64", "user": "u",
    });
    assert_eq!(body, expected);
    let empty = Request {
        extra: Some(b"{ }"),
        ..PLAIN
    };
    assert_eq!(
        embeddings_body(&empty, &["a"]),
        embeddings_body(&PLAIN, &["a"])
    );
}

#[test]
fn extra_members_must_be_an_object_and_not_ours() {
    for wrong in ["", "[]", "{", "{\"a\":}", "null", "{} {}"] {
        let request = Request {
            extra: Some(wrong.as_bytes()),
            ..PLAIN
        };
        assert_eq!(
            embeddings_body(&request, &["a"]),
            Err(BodyError::NotObject),
            "{wrong}"
        );
    }
    let request = Request {
        extra: Some(b"{\"input\":[]}"),
        ..PLAIN
    };
    assert_eq!(
        embeddings_body(&request, &["a"]),
        Err(BodyError::Reserved("input"))
    );
}

proptest! {
    #[test]
    fn any_text_comes_back(texts in prop::collection::vec(any::<String>(), 0..9)) {
        let body: Value = serde_json::from_slice(&embeddings_body(&PLAIN, &texts).unwrap()).unwrap();
        prop_assert_eq!(&body["input"], &json!(texts));
    }

    #[test]
    fn what_must_be_escaped_is_wherever_it_stands(
        texts in prop::collection::vec("[a-zé\u{0}-\u{20}\"\\\\/\u{7f}]{0,90}|[a-z]{20,40}\"[a-z]{0,40}\n", 0..4)
    ) {
        let body: Value = serde_json::from_slice(&embeddings_body(&PLAIN, &texts).unwrap()).unwrap();
        prop_assert_eq!(&body["input"], &json!(texts));
    }
}
