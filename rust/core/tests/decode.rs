//! Decoding: the same rows from every way to write an answer, and no bytes that make it panic.

use std::fmt::Write as _;

use base64_simd::STANDARD;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, proptest};
use tollway_core::embed::{BadRow, Decoded, Problem, decode, decode_new};

fn base64(row: &[f32]) -> String {
    let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
    format!("\"{}\"", STANDARD.encode_to_string(bytes))
}

fn floats(row: &[f32]) -> String {
    let numbers: Vec<String> = row.iter().map(|value| format!("{value:e}")).collect();
    format!("[{}]", numbers.join(" ,\n"))
}

fn item(index: usize, vector: &str) -> String {
    format!(r#"{{"object":"embedding","index":{index},"embedding":{vector}}}"#)
}

fn answer(items: &[String]) -> String {
    let data = items.join(",");
    format!(r#"{{"object":"list","data":[{data}],"usage":{{"prompt_tokens":7,"total_tokens":9}}}}"#)
}

fn bad(body: &str, n: usize) -> Vec<(usize, BadRow)> {
    decode_new(body.as_bytes(), n, None).unwrap().1.bad_rows
}

fn problem(body: &str, n: usize) -> Problem {
    let error = decode_new(body.as_bytes(), n, None).unwrap_err();
    assert!(error.excerpt.chars().count() <= 200);
    error.problem
}

#[test]
fn rows_are_placed_by_their_index() {
    let body = answer(&[item(1, "[3, 4.5]"), item(0, &base64(&[1.0, -2.0]))]);
    let (rows, decoded) = decode_new(body.as_bytes(), 2, None).unwrap();
    assert_eq!(rows, [1.0, -2.0, 3.0, 4.5]);
    let expected = Decoded {
        dimension: Some(2),
        bad_rows: vec![],
        prompt_tokens: Some(7),
    };
    assert_eq!(decoded, expected);
}

#[test]
fn a_place_of_the_callers_is_filled_and_bad_rows_are_nan() {
    let mut place = [9.0; 6];
    let body = answer(&[item(2, "[5,6]"), item(0, "[1e999,2]")]);
    let decoded = decode(body.as_bytes(), 3, Some(2), |_| Some(&mut place)).unwrap();
    assert_eq!(
        decoded.bad_rows,
        [(0, BadRow::NotFinite), (1, BadRow::Missing)]
    );
    assert!(place[..4].iter().all(|value| value.is_nan()));
    assert_eq!(place[4..], [5.0, 6.0]);
}

#[test]
fn each_bad_row_is_named_with_its_reason() {
    let good = base64(&[0.5, 0.25]);
    let table = [
        ("null", BadRow::Null),
        ("[NaN,1]", BadRow::NotFinite),
        ("[1,-Infinity]", BadRow::NotFinite),
        ("NaN", BadRow::NotVector),
        ("[]", BadRow::Empty),
        ("\"\"", BadRow::Empty),
        (
            "[1,2,3]",
            BadRow::Dimension {
                found: 3,
                expected: 2,
            },
        ),
        (
            "\"AAAAAA==\"",
            BadRow::Dimension {
                found: 1,
                expected: 2,
            },
        ),
        ("\"AAAA\"", BadRow::NotVector),
        ("\"!!!!!!!!!!\"", BadRow::NotVector),
        ("[1,null]", BadRow::NotVector),
        ("[1,\"2\"]", BadRow::NotVector),
        ("[[1,2]]", BadRow::NotVector),
        ("{\"a\":1}", BadRow::NotVector),
        ("7", BadRow::NotVector),
    ];
    for (vector, reason) in table {
        // The second row being good, and the first one telling the dimension, and the reverse.
        let body = answer(&[item(1, &good), item(0, vector)]);
        assert_eq!(bad(&body, 2), [(0, reason)], "{vector}");
        let body = answer(&[item(0, vector), item(1, &good)]);
        let (rows, decoded) = decode_new(body.as_bytes(), 2, Some(2)).unwrap();
        assert_eq!(decoded.bad_rows, [(0, reason)], "{vector}");
        assert_eq!(rows[2..], [0.5, 0.25]);
    }
    let twice = answer(&[item(0, &good), item(0, &good), item(2, &good)]);
    assert_eq!(
        bad(&twice, 3),
        [(0, BadRow::Duplicate), (1, BadRow::Missing)]
    );
    let no_vector = r#"{"data":[{"index":0},null]}"#;
    assert_eq!(bad(no_vector, 2), [(0, BadRow::Null), (1, BadRow::Missing)]);
}

#[test]
fn an_answer_of_another_dimension_throughout_is_an_error() {
    let (three, two) = ("[1,2,3]", base64(&[0.5, 0.25]));
    let both = answer(&[item(0, three), item(1, three)]);
    let error = decode_new(both.as_bytes(), 2, Some(2)).unwrap_err();
    let (found, expected) = (3, 2);
    assert_eq!(error.problem, Problem::Dimension { found, expected });
    assert_eq!(
        error.to_string(),
        "its vectors are of dimension 3 instead of 2"
    );
    // What may be a mishap of some rows is told of those.
    for other in ["[1]", "null", &two] {
        let body = answer(&[item(0, three), item(1, other)]);
        let (_, decoded) = decode_new(body.as_bytes(), 2, Some(2)).unwrap();
        assert!(!decoded.bad_rows.is_empty(), "{other}");
    }
    let lone = answer(&[item(0, three)]);
    let (_, decoded) = decode_new(lone.as_bytes(), 1, Some(2)).unwrap();
    assert_eq!(
        decoded.bad_rows,
        [(0, BadRow::Dimension { found, expected })]
    );
    let (_, decoded) = decode_new(both.as_bytes(), 2, None).unwrap();
    assert_eq!(decoded.dimension, Some(3));
}

#[test]
fn the_dimension_comes_from_the_first_row_of_use() {
    let body = answer(&[
        item(0, "[NaN]"),
        item(1, "[]"),
        item(2, "[1,2]"),
        item(3, "[3,4]"),
    ]);
    let (rows, decoded) = decode_new(body.as_bytes(), 4, None).unwrap();
    assert_eq!(decoded.dimension, Some(2));
    assert_eq!(
        decoded.bad_rows,
        [(0, BadRow::NotFinite), (1, BadRow::Empty)]
    );
    assert_eq!(rows[4..], [1.0, 2.0, 3.0, 4.0]);
    let body = answer(&[item(0, "null")]);
    let (rows, decoded) = decode_new(body.as_bytes(), 1, None).unwrap();
    assert_eq!((rows.len(), decoded.dimension), (0, None));
}

#[test]
fn what_is_no_answer_is_said() {
    let one = answer(&[item(0, "[1]")]);
    assert_eq!(problem("", 1), Problem::CutShort { length: 0 });
    for length in 0..one.len() {
        assert_eq!(
            problem(&one[..length], 1),
            Problem::CutShort { length },
            "{length}"
        );
    }
    assert!(matches!(
        problem("<html>", 1),
        Problem::Unexpected { at: 0, .. }
    ));
    assert!(matches!(
        problem(&format!("{one} x"), 1),
        Problem::Unexpected { .. }
    ));
    assert!(matches!(
        problem(&answer(&[item(0, "[1,,2]")]), 1),
        Problem::Unexpected { .. }
    ));
    assert!(matches!(
        problem(&answer(&[item(0, "[1 2]")]), 1),
        Problem::Unexpected { .. }
    ));
    assert_eq!(problem("{}", 1), Problem::NoData);
    assert_eq!(problem(r#"{"data":null}"#, 1), Problem::NoData);
    assert_eq!(problem(r#"{"data":[]}"#, 1), Problem::NoData);
    let rows = [item(0, "[1]"), item(1, "[1]")];
    assert_eq!(
        problem(&answer(&rows), 1),
        Problem::TooManyRows { texts: 1 }
    );
    for index in ["5", "-1", "1.5", "\"0\"", "null", "99999999999999999999"] {
        let body = format!(r#"{{"data":[{{"index":{index},"embedding":[1]}}]}}"#);
        assert_eq!(problem(&body, 3), Problem::Index { texts: 3 }, "{index}");
    }
    let wide = answer(&[item(0, &floats(&vec![0.0; 70_000]))]);
    assert_eq!(
        problem(&wide, 1),
        Problem::TooLarge {
            texts: 1,
            dimension: 70_000
        }
    );
    let nowhere = decode(one.as_bytes(), 1, None, |_| None).unwrap_err();
    assert_eq!(
        nowhere.problem,
        Problem::TooLarge {
            texts: 1,
            dimension: 1
        }
    );
    let endless = decode_new(one.as_bytes(), usize::MAX, Some(1 << 40)).unwrap_err();
    assert!(matches!(endless.problem, Problem::TooLarge { .. }));
}

#[test]
fn an_error_with_status_200_is_recognised() {
    let body = r#"{"error":{"code":500,"message":"no \"backend\" here","param":null}}"#;
    let error = decode_new(body.as_bytes(), 2, None).unwrap_err();
    assert_eq!(error.problem, Problem::Refused);
    assert_eq!(
        error.to_string(),
        r#"it reports an error: no "backend" here"#
    );
    let long = format!(r#"{{"error":"{}"}}"#, "é".repeat(5_000));
    assert_eq!(problem(&long, 1), Problem::Refused);
    let none = r#"{"error":null,"data":[{"index":0,"embedding":[1]}]}"#;
    assert_eq!(bad(none, 1), []);
}

#[test]
fn rows_without_any_index_are_taken_in_order() {
    let bare = |vector: &str| format!(r#"{{"embedding":{vector}}}"#);
    let (rows, _) = decode_new(answer(&[bare("[1]"), bare("[2]")]).as_bytes(), 2, None).unwrap();
    assert_eq!(rows, [1.0, 2.0]);
    assert_eq!(
        problem(&answer(&[bare("[1]")]), 2),
        Problem::NoIndex { texts: 2 }
    );
    let mixed = answer(&[bare("[1]"), item(1, "[2]")]);
    assert_eq!(problem(&mixed, 2), Problem::NoIndex { texts: 2 });
}

#[test]
fn escapes_marks_and_nested_unknown_members_are_read_through() {
    let vector = base64(&[f32::from_bits(0xffff_fbff), 1.0]).replace('/', "\\/");
    let body = format!(
        "\u{feff}{{\"a\":{{\"data\":[{{}},\"}}\\\"\"]}},\"d\\u0061ta\":[{{\"x\":[[1],\"]\"],\
         \"embedding\":{vector},\"index\":0}}],\"usage\":{{\"total_tokens\":3}}}}"
    );
    let (_, decoded) = decode_new(body.as_bytes(), 1, None).unwrap();
    assert_eq!(decoded.bad_rows, [(0, BadRow::NotFinite)]);
    assert_eq!(decoded.prompt_tokens, Some(3));
    let body = body.replace(&vector, &base64(&[1.0, 2.0]));
    assert_eq!(decode_new(body.as_bytes(), 1, None).unwrap().0, [1.0, 2.0]);
}

fn finite() -> impl Strategy<Value = f32> {
    any::<u32>()
        .prop_map(f32::from_bits)
        .prop_filter("finite", |value| value.is_finite())
}

/// Rows, the order to write them in, and for each whether base64 and whether index goes last.
type Sample = (Vec<Vec<f32>>, Vec<usize>, Vec<(bool, bool)>);

fn answers() -> impl Strategy<Value = Sample> {
    (1_usize..6, 1_usize..9).prop_flat_map(|(n, d)| {
        let order = Just((0..n).collect::<Vec<_>>()).prop_shuffle();
        (
            vec(vec(finite(), d), n),
            order,
            vec(any::<(bool, bool)>(), n),
        )
    })
}

fn write(rows: &[Vec<f32>], order: &[usize], style: &[(bool, bool)], space: &str) -> String {
    let mut body = format!("{space}{{{space}\"data\"{space}:{space}[");
    for (place, &index) in order.iter().enumerate() {
        let (as_base64, index_last) = style[index];
        let vector = if as_base64 {
            base64(&rows[index])
        } else {
            floats(&rows[index])
        };
        let mut members = [
            format!("\"index\":{space}{index}"),
            format!("\"embedding\":{vector}"),
        ];
        members[..].rotate_left(usize::from(index_last));
        let comma = if place == 0 { "" } else { "," };
        let members = members.join(&format!(",{space}\"z\":{{\"q\":[null]}}{space},"));
        write!(body, "{comma}{space}{{{members}{space}}}").unwrap();
    }
    body + space + "]}" + space
}

proptest! {
    #[test]
    fn every_way_to_write_an_answer_gives_the_same_rows(
        (rows, order, style) in answers(), space in "[ \n\r\t]{0,3}", given in any::<bool>(),
    ) {
        let body = write(&rows, &order, &style, &space);
        let dimension = given.then_some(rows[0].len());
        let (found, decoded) = decode_new(body.as_bytes(), rows.len(), dimension).unwrap();
        prop_assert_eq!(decoded.bad_rows, []);
        let found: Vec<u32> = found.iter().map(|value| value.to_bits()).collect();
        let expected: Vec<u32> = rows.iter().flatten().map(|value| value.to_bits()).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn a_changed_answer_never_panics_and_rows_are_finite_or_named(
        (rows, order, style) in answers(),
        edits in vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..6),
        n in 0_usize..8, given in prop::option::of(0_usize..9),
    ) {
        let mut body = write(&rows, &order, &style, "").into_bytes();
        for (place, byte, kind) in edits {
            let place = place.index(body.len());
            match kind {
                0 => body[place] = byte,
                1 => body.insert(place, byte),
                _ => body.truncate(place + 1),
            }
        }
        check(&body, n, given)?;
    }

    #[test]
    fn arbitrary_bytes_never_panic(body in vec(any::<u8>(), 0..200), n in 0_usize..4) {
        check(&body, n, None)?;
    }

    #[test]
    fn json_looking_text_never_panics(
        body in r#"(\{|\}|\[|\]|,|:|"|"data"|"index"|"embedding"|"usage"|null|-?[01]|\\|NaN| ){0,40}"#,
    ) {
        check(body.as_bytes(), 2, None)?;
        check(format!("{{\"data\":[{{{body}").as_bytes(), 2, Some(1))?;
    }
}

fn check(
    body: &[u8],
    n: usize,
    given: Option<usize>,
) -> Result<(), proptest::test_runner::TestCaseError> {
    match decode_new(body, n, given) {
        Ok((rows, decoded)) => {
            let dimension = decoded.dimension.unwrap_or(0);
            prop_assert_eq!(rows.len(), n * dimension);
            for (index, row) in rows.chunks_exact(dimension.max(1)).enumerate() {
                let named = decoded.bad_rows.iter().any(|(bad, _)| *bad == index);
                prop_assert!(row.iter().all(|value| value.is_nan() == named));
            }
        }
        Err(error) => prop_assert!(error.excerpt.chars().count() <= 200),
    }
    Ok(())
}
