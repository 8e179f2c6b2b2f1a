//! The built-in kernels, against known results.
#![cfg(all(not(loom), not(miri)))]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::time::{Duration, Instant};

use common::{buffer, soon};
use hybridloop_kernels::{Arg, Code, Config, Engine, JobOptions, JobResult, Registry, Value};

fn call(name: &str, args: Vec<Arg>) -> Result<Value, (Code, String)> {
    let engine = Engine::new(&Config {
        threads: 1,
        ..Config::default()
    });
    let kernel = Registry::with_builtins().get(name).unwrap();
    let job = engine
        .submit(&kernel, args, None, JobOptions::default())
        .unwrap();
    match job.wait(soon()).unwrap() {
        JobResult::Value(value) => Ok(value.clone()),
        JobResult::Error(error) => Err((error.code, error.message.clone())),
        other => panic!("{other:?}"),
    }
}

fn data(data: &[u8]) -> Arg {
    Arg::Buffer(buffer(Vec::leak(data.to_vec()), c"B"))
}

fn doubles(data: &[f64]) -> Arg {
    Arg::Buffer(buffer(Vec::leak(data.to_vec()), c"d"))
}

fn bytes(value: Result<Value, (Code, String)>) -> Vec<u8> {
    match value.unwrap() {
        Value::Buffer(view) => view.to_vec(),
        other => panic!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[test]
fn all_are_there_and_say_what_they_do() {
    let all = Registry::with_builtins().all();
    assert_eq!(all.len(), 27);
    for kernel in all {
        assert!(
            kernel.doc().len() > 20 && kernel.signature().is_some(),
            "{kernel:?}"
        );
    }
}

#[test]
fn digests() {
    let sha = bytes(call("hl.sha256", vec![data(b"abc")]));
    assert_eq!(
        hex(&sha),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    let blake = bytes(call("hl.blake3", vec![data(b"")]));
    assert_eq!(
        hex(&blake),
        "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    );
    assert!(matches!(
        call("hl.crc32", vec![data(b"123456789")]),
        Ok(Value::UInt(0xcbf4_3926))
    ));
    let start = Arg::Int(match call("hl.crc32", vec![data(b"1234")]) {
        Ok(Value::UInt(crc)) => i64::try_from(crc).unwrap(),
        other => panic!("{other:?}"),
    });
    assert!(matches!(
        call("hl.crc32", vec![data(b"56789"), start]),
        Ok(Value::UInt(0xcbf4_3926))
    ));
}

#[test]
fn compression_both_ways() {
    let text: Vec<u8> = (0..700_000_u32)
        .flat_map(|i| (i / 7).to_le_bytes())
        .collect();
    for codec in ["zstd", "gzip", "zlib", "lz4"] {
        for original in [&text[..], b"", b"x"] {
            let packed = bytes(call(&format!("hl.{codec}.compress"), vec![data(original)]));
            assert!(packed.len() < original.len() / 2 + 100, "{codec}");
            let unpack = |packed: &[u8], limit| {
                call(
                    &format!("hl.{codec}.decompress"),
                    vec![data(packed), Arg::Int(limit)],
                )
            };
            assert!(bytes(unpack(&packed, 0)) == original, "{codec}");
            if original.len() > 1 {
                let (code, text) = unpack(&packed, 1000).unwrap_err();
                assert_eq!(
                    (code, text.as_str()),
                    (Code::Invalid, "the result has more than 1000 bytes"),
                    "{codec}"
                );
                assert_eq!(
                    unpack(&packed[..packed.len() / 2], 0).unwrap_err().0,
                    Code::Invalid,
                    "{codec}"
                );
                assert_eq!(
                    unpack(b"what is this?", 0).unwrap_err().0,
                    Code::Invalid,
                    "{codec}"
                );
            }
        }
    }
    for (name, level) in [
        ("hl.zstd.compress", 23),
        ("hl.gzip.compress", 10),
        ("hl.zlib.compress", 10),
    ] {
        assert_eq!(
            call(name, vec![data(b""), Arg::Int(level)]).unwrap_err().0,
            Code::Invalid
        );
    }
}

#[test]
fn base64_both_ways() {
    assert_eq!(
        bytes(call("hl.base64.encode", vec![data(b"\xff\xfe?a")])),
        b"//4/YQ=="
    );
    assert_eq!(
        bytes(call(
            "hl.base64.encode",
            vec![data(b"\xff\xfe?a"), Arg::Bool(true)]
        )),
        b"__4_YQ=="
    );
    assert_eq!(
        bytes(call("hl.base64.decode", vec![data(b"//4/YQ==")])),
        b"\xff\xfe?a"
    );
    assert_eq!(
        call("hl.base64.decode", vec![data(b"a b")]).unwrap_err().0,
        Code::Invalid
    );
}

#[test]
fn passwords() {
    let text = |value| match value {
        Ok(Value::Str(text)) => Arg::Str((*text).into()),
        other => panic!("{other:?}"),
    };
    let hash = text(call(
        "hl.argon2id.hash",
        vec![data(b"secret"), Arg::Int(64), Arg::Int(1)],
    ));
    assert!(matches!(&hash, Arg::Str(text) if text.starts_with("$argon2id$v=19$m=64,t=1,p=1$")));
    let verify = |name, password: &[u8], hash: &Arg| call(name, vec![data(password), hash.clone()]);
    assert!(matches!(
        verify("hl.argon2id.verify", b"secret", &hash),
        Ok(Value::Bool(true))
    ));
    assert!(matches!(
        verify("hl.argon2id.verify", b"Secret", &hash),
        Ok(Value::Bool(false))
    ));
    assert_eq!(
        call("hl.argon2id.hash", vec![data(b""), Arg::Int(1)])
            .unwrap_err()
            .0,
        Code::Invalid
    );
    // A hash of another implementation, jBCrypt.
    let known = "$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i";
    let known = Arg::Str(known.into());
    assert!(matches!(
        verify("hl.bcrypt.verify", b"abc", &known),
        Ok(Value::Bool(true))
    ));
    assert!(matches!(
        verify("hl.bcrypt.verify", b"abd", &known),
        Ok(Value::Bool(false))
    ));
    let hash = text(call("hl.bcrypt.hash", vec![data(b"secret"), Arg::Int(4)]));
    assert!(matches!(
        verify("hl.bcrypt.verify", b"secret", &hash),
        Ok(Value::Bool(true))
    ));
    assert!(matches!(
        verify("hl.bcrypt.verify", b"wrong", &hash),
        Ok(Value::Bool(false))
    ));
    for name in ["hl.argon2id.verify", "hl.bcrypt.verify"] {
        assert_eq!(
            verify(name, b"", &Arg::Str("junk".into())).unwrap_err().0,
            Code::Invalid
        );
    }
    assert_eq!(
        call("hl.bcrypt.hash", vec![data(&[1; 73])]).unwrap_err().0,
        Code::Invalid
    );
    assert!(matches!(
        call("hl.compare_digest", vec![data(b"a"), data(b"a")]),
        Ok(Value::Bool(true))
    ));
    assert!(matches!(
        call("hl.compare_digest", vec![data(b"a"), data(b"b")]),
        Ok(Value::Bool(false))
    ));
    assert!(matches!(
        call("hl.compare_digest", vec![data(b"a"), data(b"")]),
        Ok(Value::Bool(false))
    ));
}

#[test]
fn numbers() {
    let float = |value| match value {
        Ok(Value::Float(value)) => value,
        other => panic!("{other:?}"),
    };
    let is = |value: f64, expected: f64| assert_eq!(value.to_bits(), expected.to_bits());
    is(float(call("hl.sum", vec![doubles(&[1.0, 2.0, 3.5])])), 6.5);
    let singles = Arg::Buffer(buffer(&[0.5_f32, 0.25], c"<f"));
    is(float(call("hl.sum", vec![singles.clone()])), 0.75);
    is(
        float(call(
            "hl.dot",
            vec![doubles(&[1.0, 2.0]), doubles(&[3.0, 4.0])],
        )),
        11.0,
    );
    assert_eq!(
        call("hl.dot", vec![doubles(&[1.0]), doubles(&[])])
            .unwrap_err()
            .0,
        Code::Invalid
    );
    assert_eq!(
        call("hl.dot", vec![doubles(&[1.0]), singles])
            .unwrap_err()
            .0,
        Code::Type
    );
    assert_eq!(
        call("hl.sum", vec![data(b"12345678")]).unwrap_err().0,
        Code::Type
    );
    let unsorted = || doubles(&[3.0, f64::NAN, -1.0, 3.0]);
    let sorted: Vec<f64> = bytes(call("hl.sort", vec![unsorted()]))
        .chunks(8)
        .map(|chunk| f64::from_ne_bytes(chunk.try_into().unwrap()))
        .collect();
    assert!(sorted[3].is_nan());
    assert_eq!(format!("{:?}", &sorted[..3]), "[-1.0, 3.0, 3.0]");
    let ints = |value| -> Vec<i64> {
        bytes(value)
            .chunks(8)
            .map(|chunk| i64::from_ne_bytes(chunk.try_into().unwrap()))
            .collect()
    };
    assert_eq!(ints(call("hl.argsort", vec![unsorted()])), [2, 0, 3, 1]);
    let histogram = |bins, low: f64, high: f64| {
        let values = doubles(&[0.0, 0.5, 1.0, 2.0, 9.0, f64::NAN]);
        call(
            "hl.histogram",
            vec![values, Arg::Int(bins), Arg::Float(low), Arg::Float(high)],
        )
    };
    assert_eq!(ints(histogram(2, 0.0, 2.0)), [2, 2]);
    for (bins, low, high) in [
        (0, 0.0, 1.0),
        (1, 1.0, 1.0),
        (1, 0.0, f64::NAN),
        (1, f64::NEG_INFINITY, 0.0),
    ] {
        assert_eq!(histogram(bins, low, high).unwrap_err().0, Code::Invalid);
    }
}

#[test]
fn time_and_the_bus() {
    for name in ["hl.spin", "hl.sleep"] {
        let begin = Instant::now();
        call(name, vec![Arg::Float(0.03)]).unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(30));
        assert_eq!(
            call(name, vec![Arg::Float(-1.0)]).unwrap_err().0,
            Code::Invalid
        );
        let engine = Engine::new(&Config {
            threads: 1,
            ..Config::default()
        });
        let kernel = Registry::with_builtins().get(name).unwrap();
        let job = engine
            .submit(&kernel, vec![Arg::Int(1000)], None, JobOptions::default())
            .unwrap();
        std::thread::yield_now();
        job.cancel();
        assert!(matches!(job.wait(soon()), Some(JobResult::Cancelled)));
    }
    let engine = Engine::new(&Config {
        threads: 1,
        ..Config::default()
    });
    let discard = Registry::with_builtins().get("hl.bus.discard").unwrap();
    let key = hybridloop_kernels::Key::new(b"k").unwrap();
    engine.bus().put_new(&key, b"data").unwrap();
    for expected in [true, false] {
        let job = engine
            .submit(
                &discard,
                vec![Arg::Key(key.clone())],
                None,
                JobOptions::default(),
            )
            .unwrap();
        assert!(
            matches!(job.wait(soon()), Some(JobResult::Value(Value::Bool(was))) if *was == expected)
        );
    }
    assert!(engine.bus().is_empty());
}
