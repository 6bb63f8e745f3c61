//! Model, plan, gates, analysis, engine and journal of moodify; no network, no cloud SDK.
