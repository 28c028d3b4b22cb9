package main

import (
	"time"

	"github.com/tullemesh/tulle/bench/proxy/loop"
)

// scenario is one table: rows measured with the same proxies.
type scenario struct {
	name, about string
	shape       shape
	peers       []string
	// fresh: every sample has processes of its own, as memory asks for.
	fresh bool
	// gcTrace has our runtime report its collections.
	gcTrace bool
	rows    []row
}

// row is one figure of every contender.
type row struct {
	name string
	// unit is what the cost is in, lower is better.
	unit  string
	probe probe
	// goal is the cost as a ratio to Envoy's, most the cost itself; 0: none.
	goal, most float64
	// peer is a contender whose cost must not be lower than ours either.
	peer string
	// latency: p50 and p99 must not be above Envoy's; tail: p99.9.
	latency, tail bool
}

// probe takes one sample of a running contender.
type probe func(b *bench, c *contender) (sample, error)

// sample is one figure. Times are in microseconds.
type sample struct {
	Cost                float64
	Rate                float64 `json:",omitempty"` // requests, connections or units a second
	P50, P99, P999, Max float64 `json:",omitempty"`
	Failed              int     `json:",omitempty"`
	// Foreign is the share of the proxies' processor that others had.
	Foreign float64
	Note    string `json:",omitempty"`

	units float64 // that the cost was divided by
}

const (
	perRequest    = "CPU µs per request"
	perMiB        = "CPU µs per MiB each way"
	perGiB        = "CPU ms per GiB"
	perConnection = "CPU µs per connection"
	perMessage    = "CPU µs per message"
	bytesEach     = "bytes each"
	allocations   = "allocations per request"
	megabytes     = "MB"

	// background is what timers and the like may allocate during a sample,
	// spread over its requests.
	background      = 0.02
	messagesPerCall = 100
	streamConns     = 10
	streamsPerConn  = 100
)

// http1 is the usual load: 64 kept-alive connections, answers of 1 KiB.
func http1(rate float64) loop.Load {
	return loop.Load{Connections: 64, Body: 1024, Rate: rate}
}

// unary is a small gRPC call on so many connections and streams.
func unary(connections, streams int, rate float64) loop.Load {
	return loop.Load{Protocol: loop.HTTP2, Connections: connections, Streams: streams, Upload: 64, Body: 64, Rate: rate}
}

// streaming answers each call with messages of 1 KiB.
func streaming(rate float64) loop.Load {
	return loop.Load{Protocol: loop.HTTP2, Connections: 8, Streams: 8, Upload: 64, Body: 1024, Messages: messagesPerCall, Rate: rate}
}

// scenarios are all that there are; the goals are those of the project's plan.
func scenarios() []scenario {
	h1, h2 := shape{sidecars: 1}, shape{sidecars: 1, http2: true}
	both := []string{nginxName, haproxyName}
	return []scenario{
		{name: "h1", about: "one sidecar, plaintext HTTP/1.1, 64 kept-alive connections, answers of 1 KiB", shape: h1, peers: both, rows: []row{
			{name: "1,000 rps", unit: perRequest, probe: load(http1(1000), requests), goal: 0.35, latency: true},
			{name: "5,000 rps", unit: perRequest, probe: load(http1(5000), requests), goal: 0.35, latency: true},
			{name: "saturated", unit: perRequest, probe: load(http1(0), requests), goal: 0.28, peer: nginxName},
			{name: "5,000 rps", unit: allocations, probe: allocated(http1(5000)), most: background},
		}},
		{name: "mtls", about: "two sidecars with mutual TLS between them (sum of both), HTTP/1.1, 64 kept-alive connections, answers of 1 KiB", shape: shape{sidecars: 2}, peers: both, rows: []row{
			{name: "1,000 rps", unit: perRequest, probe: load(http1(1000), requests), goal: 0.28},
			{name: "5,000 rps", unit: perRequest, probe: load(http1(5000), requests), goal: 0.28},
			{name: "saturated", unit: perRequest, probe: load(http1(0), requests), goal: 0.28},
		}},
		{name: "body", about: "one sidecar, HTTP/1.1, 64 KiB up and 64 KiB down in each exchange", shape: h1, peers: both, rows: []row{
			{name: "16 connections, saturated", unit: perMiB, probe: load(loop.Load{Connections: 16, Upload: 64 << 10, Body: 64 << 10}, mebibytes), goal: 0.6},
			{name: "16 connections, 500 rps", unit: perMiB, probe: load(loop.Load{Connections: 16, Upload: 64 << 10, Body: 64 << 10, Rate: 500}, mebibytes), goal: 0.6},
		}},
		{name: "tcp", about: "TCP relay; a short connection is one byte there and 64 back, 16 at a time", shape: shape{sidecars: 1, tcp: true}, peers: both, rows: []row{
			{name: "1 stream", unit: perGiB, probe: load(loop.Load{Protocol: loop.Bulk, Connections: 1}, gibibytes), goal: 0.85},
			{name: "8 streams", unit: perGiB, probe: load(loop.Load{Protocol: loop.Bulk, Connections: 8}, gibibytes), goal: 0.85},
			{name: "short connections", unit: perConnection, probe: load(loop.Load{Protocol: loop.Short, Connections: 16}, requests), goal: 1.0},
		}},
		{name: "handshake", about: "new connections with mutual TLS 1.3 (P-256 certificates, X25519), one small request each, 4 at a time", shape: shape{sidecars: 1, tls: true}, peers: both, rows: []row{
			{name: "full", unit: perConnection, probe: handshakes(false), goal: 0.95},
			{name: "resumed", unit: perConnection, probe: handshakes(true), goal: 1.2},
		}},
		{name: "memory", about: "resident memory of a fresh process", shape: h1, peers: both, fresh: true, rows: []row{
			{name: "at start", unit: megabytes, probe: memoryAtStart, most: 20},
			{name: "after saturated load", unit: megabytes, probe: memoryAfterLoad},
			{name: "idle connection, never used", unit: bytesEach, probe: idle(false, false), most: 5000},
			{name: "idle connection, after a request", unit: bytesEach, probe: idle(false, true), most: 5000},
		}},
		{name: "memory-tls", about: "resident memory of a fresh process, mutual TLS", shape: shape{sidecars: 1, tls: true}, peers: both, fresh: true, rows: []row{
			{name: "idle connection, after a request", unit: bytesEach, probe: idle(true, true), most: 25000},
		}},
		{name: "big", about: "10,000 routes of 1,000 hosts and 50,000 endpoints of 5,000 clusters loaded; 64 connections call 64 hosts, answers of 1 KiB", shape: shape{sidecars: 1, big: true}, gcTrace: true, rows: []row{
			{name: "2,000 rps", unit: perRequest, probe: collected(load(loop.Load{Connections: 64, Body: 1024, Rate: 2000}, requests)), tail: true},
			{name: "2,000 rps, configuration dumped twice", unit: perRequest, probe: collected(dumped(loop.Load{Connections: 64, Body: 1024, Rate: 2000}))},
		}},
		{name: "h2", about: "one sidecar, HTTP/2 to HTTP/2, small unary gRPC calls", shape: h2, peers: both, rows: []row{
			{name: "64 connections × 1 stream, 2,000 rps", unit: perRequest, probe: load(unary(64, 1, 2000), requests), goal: 0.35},
			{name: "64 connections × 1 stream, 5,000 rps", unit: perRequest, probe: load(unary(64, 1, 5000), requests), goal: 0.35},
			{name: "8 connections × 8 streams, saturated", unit: perRequest, probe: load(unary(8, 8, 0), requests), goal: 0.32},
			{name: "1 connection × 100 streams, saturated", unit: perRequest, probe: load(unary(1, 100, 0), requests), goal: 0.32},
			{name: "64 connections × 1 stream, 5,000 rps", unit: allocations, probe: allocated(unary(64, 1, 5000)), most: 2 + background},
		}},
		{name: "h2-mtls", about: "two sidecars with mutual TLS and HTTP/2 between them (sum of both), small unary gRPC calls", shape: shape{sidecars: 2, http2: true}, rows: []row{
			{name: "64 connections × 1 stream, 2,000 rps", unit: perRequest, probe: load(unary(64, 1, 2000), requests), goal: 0.4},
			{name: "8 connections × 8 streams, saturated", unit: perRequest, probe: load(unary(8, 8, 0), requests), goal: 0.4},
		}},
		{name: "h2-stream", about: "one sidecar, HTTP/2 to HTTP/2, server streaming: 100 messages of 1 KiB a call, 8 connections × 8 streams", shape: h2, peers: both, rows: []row{
			{name: "20,000 messages a second", unit: perMessage, probe: load(streaming(20000/messagesPerCall), messages), goal: 0.5},
			{name: "saturated", unit: perMessage, probe: load(streaming(0), messages), goal: 0.5},
		}},
		{name: "h2-wait", about: "resident memory of a fresh process with streams that wait for their answer, HTTP/2 to HTTP/2", shape: h2, peers: both, fresh: true, rows: []row{
			{name: "1,000 streams on 10 connections", unit: bytesEach, probe: waiting, most: 6000},
		}},
	}
}

// idleConnections is how many are opened; plaintext and TLS.
const idleConnections = 10000

// settle is how long a process has to come to rest before its memory counts.
const settle = 1500 * time.Millisecond
