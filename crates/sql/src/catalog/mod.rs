//! What names mean in a statement: topics in the schema `public`, and what the server tells of the cluster and of itself beside them.
//!
//! A catalog is made for each statement, so that a statement sees each topic as of one moment, however often it names it.

pub mod kafscale;
pub mod plain;
pub mod relations;
pub mod topics;

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::error::Result;
use kafscale_storage::scan::Scanner;

pub use topics::{Topics, asked};

use self::kafscale::System;
use self::relations::Relations;
use crate::postgres::information_schema::InformationSchema;
use crate::postgres::tables::PgCatalog;
use crate::query::Query;
use crate::topic::infer::Layouts;

/// The one database.
pub const DATABASE: &str = "kafscale";
pub const PUBLIC: &str = "public";
pub const KAFSCALE: &str = "kafscale";

/// What all statements share.
#[derive(Debug)]
pub struct Cluster {
    pub scanner: Scanner,
    pub layouts: Layouts,
}

/// The catalog of one statement.
#[derive(Debug)]
pub struct Catalog {
    topics: Arc<Topics>,
    system: Arc<System>,
    pg_catalog: Arc<PgCatalog>,
    information_schema: Arc<InformationSchema>,
}

impl Catalog {
    pub fn new(cluster: Arc<Cluster>, query: Arc<Query>) -> Catalog {
        let topics = Arc::new(Topics::new(Arc::clone(&cluster), query));
        let relations = Arc::new(Relations::new(Arc::clone(&cluster), Arc::clone(&topics)));
        let system = Arc::new(System::new(cluster, Arc::clone(&topics)));
        Catalog {
            topics,
            system,
            pg_catalog: Arc::new(PgCatalog::new(Arc::clone(&relations))),
            information_schema: Arc::new(InformationSchema::new(relations)),
        }
    }
}

impl CatalogProvider for Catalog {
    fn schema_names(&self) -> Vec<String> {
        [PUBLIC, KAFSCALE, "pg_catalog", "information_schema"].map(str::to_owned).to_vec()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        match name {
            PUBLIC => Some(Arc::new(Public {
                catalog: Arc::clone(&self.pg_catalog),
                topics: Arc::clone(&self.topics),
            })),
            "pg_catalog" => Some(Arc::clone(&self.pg_catalog) as Arc<dyn SchemaProvider>),
            "information_schema" => Some(Arc::clone(&self.information_schema) as Arc<dyn SchemaProvider>),
            KAFSCALE => Some(Arc::clone(&self.system) as Arc<dyn SchemaProvider>),
            _ => None,
        }
    }
}

/// Topics; and the tables of `pg_catalog`, wherever [`crate::postgres::rewrite`] has not found them before.
#[derive(Debug)]
struct Public {
    catalog: Arc<PgCatalog>,
    topics: Arc<Topics>,
}

#[async_trait]
impl SchemaProvider for Public {
    fn table_names(&self) -> Vec<String> {
        self.topics.table_names()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        match self.topics.table(name).await? {
            Some(topic) => Ok(Some(topic)),
            None => Ok(self.catalog.find(name)),
        }
    }

    fn table_exist(&self, name: &str) -> bool {
        self.topics.table_exist(name)
    }
}

/// The list of the one database.
#[derive(Debug)]
pub struct Database(pub Arc<Catalog>);

impl CatalogProviderList for Database {
    fn register_catalog(&self, _: String, _: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![DATABASE.to_owned()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == DATABASE).then(|| Arc::clone(&self.0) as Arc<dyn CatalogProvider>)
    }
}
