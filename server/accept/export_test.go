package accept

// For tests that look inside.
var (
	ReadCRLs     = readCRLs
	Certificates = certificates
	Clean        = clean
	MaxConns     = maxConns
	UsableMemory = usableMemory
)

const Costliest = costliest
