//! The smallest program on Foliant: a store, an object, a transaction, and the same bytes after
//! opening again. Uses the public API only.
//!
//! `cargo run -p foliant-examples --example hello_object`

#![forbid(unsafe_code)]

use foliant::Engine;

#[tokio::main]
async fn main() -> foliant::Result<()> {
    let path = std::env::temp_dir().join(format!("hello-object-{}", std::process::id()));
    Engine::format(&path).size_bytes(64 << 20).run().await?;

    let engine = Engine::open(&path).memory_bytes(8 << 20).run().await?;
    let greeting = engine.create("greeting").await?;
    // Cached at once, durable after the sync.
    greeting.write_at(0, b"hello, disk").await?;
    greeting.sync().await?;
    // Both bytes or none, and durable when the wait ends.
    let mut transaction = engine.transaction();
    transaction.write_at(&greeting, 0, b"H")?;
    transaction.write_at(&greeting, 7, b"D")?;
    transaction.commit().await?.durable().await?;
    engine.close().await?;

    let engine = Engine::open(&path).memory_bytes(8 << 20).run().await?;
    let greeting = engine.object("greeting").await?;
    let mut bytes = vec![0; greeting.size() as usize];
    greeting.read_at(0, &mut bytes).await?;
    println!("{} (through {})", String::from_utf8_lossy(&bytes), engine.backend().name);
    engine.close().await?;
    // The example's own file; the system clears what is left in its temporary directory.
    let _ = std::fs::remove_file(&path);
    Ok(())
}
