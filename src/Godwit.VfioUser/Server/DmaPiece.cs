namespace Godwit.VfioUser;

/// <summary>
/// A pinned piece of guest memory inside the device process. Has one owner, who disposes it exactly once: the client's unmap waits.
/// </summary>
public readonly unsafe ref struct DmaPiece
{
    /// <summary>First byte. Racy: the guest writes it too.</summary>
    public readonly byte* Pointer;

    /// <summary>Bytes.</summary>
    public readonly int Length;

    private readonly DeviceHost? _host;
    private readonly Mapping? _mapping;
    private readonly DmaAddress _address;
    private readonly bool _forWrite;

    /// <summary>A piece whose end needs no telling: for an <see cref="IDeviceHost"/> other than the server's, such as a device's tests.</summary>
    public DmaPiece(byte* pointer, int length)
    {
        Pointer = pointer;
        Length = length;
    }

    internal DmaPiece(DeviceHost host, Mapping mapping, DmaAddress address, byte* pointer, int length, bool forWrite)
    {
        Pointer = pointer;
        Length = length;
        _host = host;
        _mapping = mapping;
        _address = address;
        _forWrite = forWrite;
    }

    /// <summary>Ends the access; a piece acquired for writing is logged as written, all of it.</summary>
    public void Dispose() => _host?.Release(_mapping!, _address, Length, _forWrite);
}
