using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>A command from the client with its body and descriptors. Reused.</summary>
internal sealed class IncomingMessage
{
    /// <summary>Bodies up to here stay allocated between uses.</summary>
    private const int KeptCapacity = 256 * 1024;

    private readonly List<FileDescriptor> _files = [];
    private byte[] _buffer = new byte[512];

    /// <summary>Its header.</summary>
    public MessageHeader Header { get; set; }

    /// <summary>Bytes of its body.</summary>
    public int Length { get; private set; }

    /// <summary>More descriptors came than are taken.</summary>
    public bool TooManyFiles { get; set; }

    /// <summary>Its body.</summary>
    public Span<byte> Body => _buffer.AsSpan(0, Length);

    /// <summary>Its descriptors, owned by this until taken.</summary>
    public List<FileDescriptor> Files => _files;

    /// <summary>How many there are.</summary>
    public int FileCount => _files.Count;

    /// <summary>Makes room for a body that the caller has bounded.</summary>
    public void Prepare(int length)
    {
        if (length > _buffer.Length)
            _buffer = GC.AllocateUninitializedArray<byte>(length);
        Length = length;
    }

    /// <summary>Hands over one descriptor.</summary>
    public FileDescriptor TakeFile()
    {
        FileDescriptor file = _files[0];
        _files.RemoveAt(0);
        return file;
    }

    /// <summary>Closes what nobody took and forgets the rest.</summary>
    public void Clear()
    {
        foreach (FileDescriptor file in _files)
            file.Dispose();
        _files.Clear();
        TooManyFiles = false;
        Length = 0;
        if (_buffer.Length > KeptCapacity)
            _buffer = new byte[512];
    }
}
