package app

import "fmt"

// Traffic is the golden signals of a service over the last seconds.
type Traffic struct {
	// PerSecond is the rate of requests; Success the share without a 5xx or a
	// failure of the proxy, 0 to 1.
	PerSecond float64 `json:"perSecond"`
	Success   float64 `json:"success"`
	// P50 and P95 are milliseconds.
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
}

// Cells are the signals as table cells: rate, success, p50, p95.
func (t *Traffic) Cells() (rps, success, p50, p95 string) {
	ms := func(v float64) string { return fmt.Sprintf("%.3gms", v) }
	return fmt.Sprintf("%.1f", t.PerSecond), fmt.Sprintf("%.2f%%", 100*t.Success), ms(t.P50), ms(t.P95)
}
