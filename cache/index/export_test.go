package index

// What tests of the package see of it.
var (
	CheckTable = checkTable
	Damaged    = damaged
)
