package porthole

// PolicyTailDrop loses the newest packet when a queue is full; it is the default.
const PolicyTailDrop = "tail-drop"

// Policies lists what Settings.Policy may be: what a full queue loses.
func Policies() []string { return []string{PolicyTailDrop} }
