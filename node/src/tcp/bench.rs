//! What `benches/codec.rs` measures of this module, and nobody else uses.

use bytes::BytesMut;

use super::resp::{Caps, Parser};

/// How many complete requests of the Redis protocol a read buffer begins with; they are cut off it.
#[must_use]
pub fn requests(buffer: &mut BytesMut) -> usize {
    let caps = Caps { arguments: 1 << 10, argument_bytes: 1 << 20, command_bytes: 2 << 20 };
    let (mut parser, mut requests) = (Parser::default(), 0);
    while let Ok(Some(bytes)) = parser.parse(buffer, &caps) {
        let request = parser.finish(buffer.split_to(bytes).freeze());
        requests += usize::from(request.len() > 0);
        parser.recycle(request);
    }
    requests
}
