package demo

import "time"

// The shop's limits. They are the demo applications' own, small on purpose: a lesson shows what happens at them.
const (
	// requestsInFlightMax bounds the requests of one service that are served at once; more get 503.
	requestsInFlightMax = 256
	// bodyBytesMax bounds a request body and the answer of a called service.
	bodyBytesMax = 64 << 10
	// headerBytesMax bounds a request head.
	headerBytesMax = 16 << 10
	// callTimeMax bounds one call to another service, connecting included.
	callTimeMax = 10 * time.Second
	// readTimeMax bounds the reading of one request, idleTimeMax an idle connection.
	readTimeMax = 5 * time.Second
	idleTimeMax = 60 * time.Second
	// shutdownTimeMax bounds how long running requests may go on when the service is told to end.
	shutdownTimeMax = 5 * time.Second
	// slowMillisMax bounds the slow switch.
	slowMillisMax = 60_000
	// ledgerConnectionsMax and ledgerLineBytesMax bound the ledger's connections and one line of its protocol.
	ledgerConnectionsMax = 256
	ledgerLineBytesMax   = 256
	// ledgerAmountMax bounds one posting, in cents, so that the balance of any run fits an int64.
	ledgerAmountMax = 1_000_000_00
)
