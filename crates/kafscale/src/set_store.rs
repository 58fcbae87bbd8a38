//! `kafscale set-store`: gives a cluster another store, as long as it has no topics; or says where its store has moved.

use std::sync::Arc;

use clap::Args;
use kafscale_meta::{EmbeddedStore, MetaUrl, Metadata};
use tokio::runtime::Builder;

use crate::backend::{EtcdArgs, StoreUrl};
use crate::failure::Failure;
use crate::runtime;
use crate::s3::S3Args;

pub const EXAMPLES: &str = "\
The metadata of a cluster says in which bucket its brokers keep the log. When that was mistyped at
the first start, or the bucket was copied to another place, stop all brokers, and:
  kafscale set-store --store s3://bucket/prefix --meta etcd://etcd-1:2379
A cluster that has topics moves only to a store with the same identity.json: a copy of its own.

Exit status: 0 changed, 1 refused or failed, 2 a wrong argument.";

#[derive(Debug, Args)]
pub struct SetStoreArgs {
    /// Where the brokers are to keep the log: s3://bucket/prefix
    #[arg(long, env = "KAFSCALE_STORE", value_name = "URL")]
    pub store: StoreUrl,

    /// The metadata store: etcd://host:port,host:port, etcds:// for TLS, or file:///absolute/dir
    #[arg(long, env = "KAFSCALE_META", value_name = "URL")]
    pub meta: MetaUrl,

    /// Name of the cluster, as its brokers have it
    #[arg(long, env = "KAFSCALE_CLUSTER_NAME", value_name = "NAME", default_value = "kafscale")]
    pub cluster_name: String,

    #[command(flatten)]
    pub etcd: EtcdArgs,
    #[command(flatten)]
    pub s3: S3Args,
}

/// Changes the store, and tells what was changed.
pub fn run(args: &SetStoreArgs) -> Result<String, Failure> {
    let StoreUrl::S3 { bucket, prefix } = &args.store else {
        return Err(Failure::usage(format!(
            "--store {}: only an object store is shared by a cluster",
            args.store
        )));
    };
    let s3 = args.s3.config(bucket, prefix, crate::s3::process_variables())?;
    runtime::block_on(Builder::new_multi_thread(), async {
        let failed = |e: kafscale_meta::Error| Failure::runtime(e.to_string());
        let (url, place) = (kafscale_storage::StoreUrl::S3(Box::new(s3)), args.store.to_string());
        if let MetaUrl::File(dir) = &args.meta
            && EmbeddedStore::exists(dir)
        {
            // On a copy first, so that what is refused changes nothing.
            let copy = Arc::new(EmbeddedStore::look(dir).await.map_err(failed)?);
            let metadata = Metadata::new(copy, &args.cluster_name).map_err(failed)?;
            kafscale_storage::set_store(&url, &metadata, &place).await.map_err(Failure::runtime)?;
        }
        let meta = kafscale_meta::open_existing(&args.meta, &args.etcd.options()?).await.map_err(failed)?;
        let metadata = Metadata::new(meta, &args.cluster_name).map_err(failed)?;
        let set = kafscale_storage::set_store(&url, &metadata, &place).await;
        let closed = metadata.store().close().await;
        let before = set.map_err(Failure::runtime)?;
        closed.map_err(failed)?;
        let before = before.unwrap_or_else(|| "nowhere yet".to_owned());
        Ok(format!("the cluster {} keeps its log in {place}; before: {before}\n", args.cluster_name))
    })
}
