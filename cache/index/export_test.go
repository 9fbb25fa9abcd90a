package index

// What tests of the package see of it.
var (
	CheckTable = func(name string) error {
		_, err := checkTable(name, nil)
		return err
	}
	Damaged = damaged
)

// SetFree makes x take free for what tells how much room there is.
func SetFree(x *Index, free func(dir string) (int64, error)) { x.place.free = free }
