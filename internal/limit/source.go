package limit

// Configuration folders. They are the user's own, but a folder given by mistake (a home folder, a checkout of everything) must
// end in a message and not in a full memory or an exhausted inotify table.
const (
	// SourceFilesMax bounds the files that one source reads. Large meshes keep one object a file: some thousands.
	SourceFilesMax = 10_000
	// SourceFoldersMax bounds the folders that one source reads and watches; Linux's default is 8,192 watches and above.
	SourceFoldersMax = 5_000
	// SourceBytesMax bounds all files of one source together.
	SourceBytesMax = 256 << 20
)
