//! Decoders refuse any bytes or decompress them, within the limit; what was compressed comes back, also if frames are joined.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use hybridloop_kernels::{
    Arg, Buffer, Code, Config, Engine, JobOptions, JobResult, Registry, Value,
};
use libfuzzer_sys::fuzz_target;

const MAX_SIZE: usize = 1 << 20;

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Codec {
    Gzip,
    Lz4,
    Zlib,
    Zstd,
    Base64,
}

impl Codec {
    fn names(self) -> [&'static str; 2] {
        match self {
            Self::Gzip => ["hl.gzip.compress", "hl.gzip.decompress"],
            Self::Lz4 => ["hl.lz4.compress", "hl.lz4.decompress"],
            Self::Zlib => ["hl.zlib.compress", "hl.zlib.decompress"],
            Self::Zstd => ["hl.zstd.compress", "hl.zstd.decompress"],
            Self::Base64 => ["hl.base64.encode", "hl.base64.decode"],
        }
    }
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    codec: Codec,
    /// Bytes that may be a frame.
    frame: &'a [u8],
    data: &'a [u8],
    /// Bytes of the frame of `data` that are changed.
    changes: Vec<(u16, u8)>,
}

static ENGINE: LazyLock<(Engine, Registry)> = LazyLock::new(|| {
    let engine = Engine::new(&Config {
        threads: 1,
        ..Config::default()
    });
    (engine, Registry::with_builtins())
});

/// The result of a kernel; `None` if it refuses the data.
fn call(name: &str, data: &[u8], more: Option<Arg>) -> Option<Vec<u8>> {
    let (engine, registry) = &*ENGINE;
    let kernel = registry.get(name).expect("a built-in kernel");
    // SAFETY: `data` outlives the job, which only reads it.
    let mut buffer = unsafe { Buffer::new(1, data.as_ptr(), data.len()) };
    (buffer.format, buffer.itemsize) = (c"B".into(), 1);
    let args = [Arg::Buffer(buffer)].into_iter().chain(more).collect();
    let job = engine
        .submit(&kernel, args, None, JobOptions::default())
        .expect("room in the queue");
    match job.wait(None) {
        Some(JobResult::Value(Value::Buffer(view))) => Some(view.to_vec()),
        Some(JobResult::Error(error)) if matches!(error.code, Code::Invalid | Code::Memory) => None,
        other => panic!("{name}: {other:?}"),
    }
}

fuzz_target!(|input: Input<'_>| {
    let [compress, decompress] = input.codec.names();
    let limit = || match input.codec {
        Codec::Base64 => None,
        _ => Some(Arg::UInt(MAX_SIZE as u64)),
    };
    if let Some(result) = call(decompress, input.frame, limit()) {
        assert!(result.len() <= MAX_SIZE.max(input.frame.len()));
    }
    let mut frame = call(compress, input.data, None).expect("any data can be compressed");
    let back = call(decompress, &frame, limit());
    assert_eq!(back.as_deref(), Some(input.data));
    for (place, byte) in &input.changes {
        let place = usize::from(*place) % frame.len().max(1);
        if let Some(changed) = frame.get_mut(place) {
            *changed = *byte;
        }
    }
    if let Some(result) = call(decompress, &frame, limit()) {
        assert!(result.len() <= MAX_SIZE.max(frame.len()));
    }
});
