//! The perimeter: agents work on data collections under rules, and only filtered, audited answers leave.
