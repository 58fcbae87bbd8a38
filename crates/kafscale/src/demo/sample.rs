//! The sample data: orders of a shop and the payments for them, as JSON.
//!
//! One customer, a marketplace, places every fifth order, so that one partition of `orders` is much fuller than the
//! others, as it happens with real keys.

use kafscale_core::utc;
use rand::Rng as _;
use rand::rngs::StdRng;
use serde::Serialize;

const CATALOGUE: [(&str, &str, u32); 8] = [
    ("SKU-1001", "Espresso beans, 1 kg", 1_890),
    ("SKU-1002", "Filter coffee, 500 g", 950),
    ("SKU-1003", "Hand grinder", 5_490),
    ("SKU-1004", "Pour-over kettle", 6_200),
    ("SKU-1005", "Paper filters, 100", 420),
    ("SKU-1006", "Milk jug, 350 ml", 1_675),
    ("SKU-1007", "Espresso machine", 64_900),
    ("SKU-1008", "Descaler, 250 ml", 730),
];
const PLACES: [(&str, &str, &str); 6] = [
    ("DE", "Berlin", "EUR"),
    ("FR", "Lyon", "EUR"),
    ("IT", "Milano", "EUR"),
    ("GB", "Leeds", "GBP"),
    ("US", "Portland", "USD"),
    ("CH", "Basel", "CHF"),
];
const METHODS: [&str; 4] = ["card", "paypal", "invoice", "sepa_debit"];
const CUSTOMERS: u32 = 2_500;
const MARKETPLACE: u32 = 1;

#[derive(Debug, Serialize)]
pub struct Order {
    pub order_id: String,
    pub customer_id: String,
    pub placed_at: String,
    pub status: &'static str,
    pub currency: &'static str,
    pub total: f64,
    pub items: Vec<Item>,
    pub ship_to: Place,
}

#[derive(Debug, Serialize)]
pub struct Item {
    pub sku: &'static str,
    pub name: &'static str,
    pub quantity: u32,
    pub unit_price: f64,
}

#[derive(Debug, Serialize)]
pub struct Place {
    pub country: &'static str,
    pub city: &'static str,
}

#[derive(Debug, Serialize)]
pub struct Payment {
    pub payment_id: String,
    pub order_id: String,
    pub customer_id: String,
    pub amount: f64,
    pub currency: &'static str,
    pub method: &'static str,
    pub status: &'static str,
    pub processed_at: String,
}

/// The order with this number, placed at this time.
pub fn order(rng: &mut StdRng, number: i64, placed_at_ms: i64) -> Order {
    let customer = if rng.random_ratio(1, 5) { MARKETPLACE } else { rng.random_range(2..=CUSTOMERS) };
    let (country, city, currency) = PLACES[customer as usize % PLACES.len()];
    let mut cents = 0;
    let items = (0..rng.random_range(1..=4))
        .map(|_| {
            let (sku, name, unit_cents) = CATALOGUE[rng.random_range(0..CATALOGUE.len())];
            let quantity = rng.random_range(1..=3);
            cents += unit_cents * quantity;
            Item { sku, name, quantity, unit_price: f64::from(unit_cents) / 100.0 }
        })
        .collect();
    Order {
        order_id: format!("ord-{number:08}"),
        customer_id: format!("cust-{customer:05}"),
        placed_at: utc::milliseconds(placed_at_ms),
        status: "placed",
        currency,
        total: f64::from(cents) / 100.0,
        items,
        ship_to: Place { country, city },
    }
}

/// The payment for an order, a few seconds after it.
pub fn payment(rng: &mut StdRng, order: &Order, number: i64, processed_at_ms: i64) -> Payment {
    Payment {
        payment_id: format!("pay-{number:08}"),
        order_id: order.order_id.clone(),
        customer_id: order.customer_id.clone(),
        amount: order.total,
        currency: order.currency,
        method: METHODS[rng.random_range(0..METHODS.len())],
        status: if rng.random_ratio(1, 33) { "declined" } else { "captured" },
        processed_at: utc::milliseconds(processed_at_ms),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn an_order_adds_up_and_its_payment_matches() {
        let mut rng = StdRng::seed_from_u64(7);
        for number in 0..100 {
            let order = order(&mut rng, number, 0);
            let sum: f64 = order.items.iter().map(|item| item.unit_price * f64::from(item.quantity)).sum();
            assert!((sum - order.total).abs() < 0.005, "{order:?}");
            let payment = payment(&mut rng, &order, number, 0);
            assert_eq!(
                (payment.order_id, payment.amount, payment.currency),
                (order.order_id, order.total, order.currency)
            );
        }
    }
}
