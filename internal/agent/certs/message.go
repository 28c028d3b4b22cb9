package certs

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tullemesh/tulle/internal/limit"
)

// The two messages of Istio's certificate service are written and read here by
// hand (istio.io/api, security/v1alpha1/ca.proto): the generated package brings
// two JSON codecs and a builder of descriptors into the data plane, a megabyte
// that every sidecar would keep resident. Nothing else of Istio's API reaches it.
const (
	createMethod = "/istio.v1.auth.IstioCertificateService/CreateCertificate"

	csrField      protowire.Number = 1 // IstioCertificateRequest.csr
	durationField protowire.Number = 3 // IstioCertificateRequest.validity_duration, seconds
	chainField    protowire.Number = 1 // IstioCertificateResponse.cert_chain
)

// request is an IstioCertificateRequest. The message around the fields is
// empty: to it they are unknown, and so they travel as they are.
func request(csr []byte, ttl time.Duration) *emptypb.Empty {
	fields := protowire.AppendTag(nil, csrField, protowire.BytesType)
	fields = protowire.AppendBytes(fields, csr)
	// Rounded up, so that the answer is not "no wish" to a wish.
	if seconds := (ttl + time.Second - 1) / time.Second; seconds != 0 {
		fields = protowire.AppendTag(fields, durationField, protowire.VarintType)
		fields = protowire.AppendVarint(fields, uint64(seconds))
	}
	m := &emptypb.Empty{}
	m.ProtoReflect().SetUnknown(fields)
	return m
}

// chainOf reads an IstioCertificateResponse, which the caller received as an
// empty message. Fields that we don't know are passed over.
func chainOf(response proto.Message) ([]string, error) {
	var chain []string
	for fields := response.ProtoReflect().GetUnknown(); len(fields) > 0; {
		number, kind, n := protowire.ConsumeTag(fields)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		fields = fields[n:]
		if number != chainField || kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, fields); n < 0 {
				return nil, protowire.ParseError(n)
			}
			fields = fields[n:]
			continue
		}
		certificate, n := protowire.ConsumeString(fields)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		if chain = append(chain, certificate); len(chain) > limit.ChainCertificatesMax+limit.RootCertificatesMax {
			return nil, fmt.Errorf("more than %d certificates in an answer", limit.ChainCertificatesMax+limit.RootCertificatesMax)
		}
		fields = fields[n:]
	}
	return chain, nil
}
