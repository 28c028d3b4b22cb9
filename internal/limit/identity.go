package limit

// Limits of identities, certificates and their exchange.
const (
	// SPIFFEIDBytesMax bounds a SPIFFE ID (SPIFFE-ID §2.3: 2048 bytes).
	SPIFFEIDBytesMax = 2048

	// TrustDomainBytesMax bounds the trust domain of a SPIFFE ID (SPIFFE-ID
	// §2.3: 255 bytes).
	TrustDomainBytesMax = 255

	// ChainCertificatesMax bounds the certificates of one chain, leaf
	// included. Meshes use two or three; verification tries combinations, so
	// a long chain of a stranger costs time.
	ChainCertificatesMax = 10

	// RootCertificatesMax bounds the roots of one bundle. A mesh has one, two
	// while it rotates, and one more for each federated mesh.
	RootCertificatesMax = 256

	// KeyFileBytesMax bounds a key, certificate or state file read from disk:
	// RootCertificatesMax certificates of 4 KiB.
	KeyFileBytesMax = 1 << 20

	// CSRBytesMax bounds a PEM certificate request. One for the largest
	// accepted key (RSA 8192) takes less than 4 KiB.
	CSRBytesMax = 16 << 10

	// RSABitsMin and RSABitsMax bound RSA keys: below, they are weak; above,
	// each verification costs milliseconds of CPU that a stranger can ask for.
	RSABitsMin = 2048
	RSABitsMax = 8192

	// JoinTokenBytesMax bounds a bearer token before it is parsed. Ours
	// take less than 1 KiB with the longest names in use.
	JoinTokenBytesMax = 4 << 10

	// CertificateAttributesMax bounds the metadata fields of one certificate
	// request; four are known.
	CertificateAttributesMax = 16

	// CertificateCallersMax bounds the identities whose request rate is
	// remembered by the certificate authority.
	CertificateCallersMax = 1 << 16

	// SecretNamesMax bounds the resource names that one SDS stream may
	// subscribe to; the agent serves two.
	SecretNamesMax = 16

	// SecretNameBytesMax bounds one subscribed SDS name, so that names in
	// memory and in logs stay small.
	SecretNameBytesMax = 1 << 10

	// SecretStreamsMax bounds the concurrent SDS streams of an agent. Envoy
	// opens one for each secret and worker-independent context.
	SecretStreamsMax = 256

	// SecretRequestBytesMax bounds one SDS request: a node, SecretNamesMax
	// names and an error detail.
	SecretRequestBytesMax = 256 << 10
)
