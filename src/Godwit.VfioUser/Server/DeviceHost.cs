using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>What one client's session gives the device: its memory, its interrupts, and the log of what was written.</summary>
internal sealed unsafe class DeviceHost(DeviceDescription description, MessagePump pump, VfioUserServerOptions options, Action<string> close) : IDeviceHost, IDisposable
{
    private readonly InterruptTable _interrupts = new(description, options.Clock, close);
    private readonly FileCache _files = new(options.Files.ForClient());
    private readonly List<Mapping> _inside = [];
    private volatile DmaLog? _log;

    /// <summary>The client's DMA mappings.</summary>
    public MappingTable Mappings { get; } = new();

    /// <summary>The client's eventfds.</summary>
    public InterruptTable Interrupts => _interrupts;

    /// <summary>The log, or null while nothing is logged.</summary>
    public DmaLog? Log => _log;

    /// <summary>The twin socket, if DMA messages have one of their own.</summary>
    public MessagePump? Twin { get; set; }

    /// <summary>Most data in one DMA message.</summary>
    public int MessageChunk { get; set; } = WireLimits.SendChunk;

    public bool Read(DmaAddress address, Span<byte> destination)
    {
        ulong at = address.Value;
        while (!destination.IsEmpty)
        {
            if (!Mappings.TryEnter(at, out Mapping? mapping))
                return false;
            int length = LengthIn(mapping, at, destination.Length);
            Span<byte> piece = destination[..length];
            try
            {
                if ((mapping.Access & DmaAccess.Read) == 0 || !ReadPiece(mapping, at, piece))
                    return false;
            }
            finally
            {
                mapping.Exit(Mappings.Drained);
            }
            destination = destination[length..];
            at = unchecked(at + (ulong)length);
            if (at == 0 && !destination.IsEmpty)
                return false; // past the end of 64 bits
        }
        return true;
    }

    public bool Write(DmaAddress address, ReadOnlySpan<byte> data)
    {
        ulong at = address.Value;
        while (!data.IsEmpty)
        {
            if (!Mappings.TryEnter(at, out Mapping? mapping))
                return false;
            int length = LengthIn(mapping, at, data.Length);
            try
            {
                if ((mapping.Access & DmaAccess.Write) == 0 || !WritePiece(mapping, at, data[..length]))
                    return false;
            }
            finally
            {
                mapping.Exit(Mappings.Drained);
            }
            data = data[length..];
            at = unchecked(at + (ulong)length);
            if (at == 0 && !data.IsEmpty)
                return false; // past the end of 64 bits
        }
        return true;
    }

    public bool TryAcquire(DmaAddress address, int length, bool forWrite, out DmaPiece piece)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(length);
        piece = default;
        if (!Mappings.TryEnter(address.Value, out Mapping? mapping))
            return false;
        if (mapping.Pointer is null || (mapping.Access & (forWrite ? DmaAccess.Write : DmaAccess.Read)) == 0)
        {
            mapping.Exit(Mappings.Drained);
            return false;
        }
        int available = LengthIn(mapping, address.Value, length);
        // SAFETY: the address lies in the mapping, which was entered and stays until the piece is disposed.
        piece = new DmaPiece(this, mapping, address, mapping.Pointer + (address.Value - mapping.Start), available, forWrite);
        return true;
    }

    public void Trigger(int index, int vector) => _interrupts.Trigger(index, vector);

    public void SetPin(bool asserted) => _interrupts.SetLevel(PciIrq.Intx, 0, asserted);

    /// <summary>Ends the access of a piece.</summary>
    public void Release(Mapping mapping, DmaAddress address, int length, bool written)
    {
        if (written)
            _log?.Mark(address.Value, (ulong)length);
        mapping.Exit(Mappings.Drained);
    }

    /// <summary>DMA_MAP; takes the descriptor over in any case.</summary>
    public Errno Map(DmaRange range, DmaAccess access, FileDescriptor? file, ulong fileOffset, int maxMappings)
    {
        Mapping? mapping;
        if (file is null)
        {
            mapping = new Mapping(range, access, null, default);
        }
        else
        {
            Errno error = _files.TryCreate(range, access, file, fileOffset, out mapping);
            if (error != Errno.None)
                return error;
        }
        Mapping? other = Mappings.FindOverlap(mapping!.Start, mapping.Last);
        Errno result = other is null
            ? Mappings.Count < maxMappings ? Errno.None : Errno.ENOSPC
            : Errno.EEXIST;
        if (result == Errno.None)
        {
            Mappings.Add(mapping);
            return Errno.None;
        }
        bool same = other is not null && other.IsSame(mapping);
        _files.Release(mapping);
        return same ? Errno.None : result;
    }

    /// <summary>
    /// DMA_UNMAP as the kernel's type1 does it: every mapping that lies inside goes, none being fine; one that would be cut refuses all.
    /// Returns when no access to what is gone is in progress and all of them are logged.
    /// </summary>
    public Errno Unmap(ulong start, ulong last)
    {
        _inside.Clear();
        Mappings.Collect(start, last, _inside);
        foreach (Mapping mapping in _inside)
        {
            if (mapping.Start < start || mapping.Last > last)
                return Errno.EINVAL;
        }
        foreach (Mapping mapping in _inside)
            Mappings.Remove(mapping);
        Retire(_inside);
        _inside.Clear();
        return Errno.None;
    }

    /// <summary>DMA_UNMAP of everything.</summary>
    public void UnmapAll() => Retire(Mappings.Clear());

    /// <summary>DMA_LOGGING_START; the caller has seen that nothing is logged yet.</summary>
    public void StartLog(DmaLog log)
    {
        _log = log;
        // A device thread that wrote just before and found no log has its write in memory after this, before the client's first look.
        Interlocked.MemoryBarrierProcessWide();
    }

    /// <summary>DMA_LOGGING_STOP: forgets all marks.</summary>
    public void StopLog() => _log = null;

    /// <summary>The client has gone and the device is quiet: everything of the client's is given back.</summary>
    public void Dispose()
    {
        UnmapAll();
        StopLog();
        _interrupts.Dispose();
        _files.Dispose();
    }

    private static int LengthIn(Mapping mapping, ulong address, int wanted) =>
        (int)Math.Min((ulong)wanted - 1, mapping.Last - address) + 1;

    private void Retire(List<Mapping> mappings)
    {
        foreach (Mapping mapping in mappings)
        {
            if (!mapping.Retire())
            {
                pump.SendHeld(); // what was done before this need not wait for the device
                mapping.AwaitLast(Mappings.Drained);
            }
            _files.Release(mapping);
        }
    }

    private bool ReadPiece(Mapping mapping, ulong address, Span<byte> destination)
    {
        ulong offset = address - mapping.Start;
        if (mapping.Pointer is not null)
        {
            // SAFETY: the mapping is entered and covers the piece. The guest may write at the same time; the copy may be torn.
            new ReadOnlySpan<byte>(mapping.Pointer + offset, destination.Length).CopyTo(destination);
            return true;
        }
        if (mapping.File is not null)
            return mapping.ReadFile(offset, destination);
        while (!destination.IsEmpty)
        {
            Span<byte> piece = destination[..Math.Min(destination.Length, MessageChunk)];
            if ((Twin ?? pump).DmaRead(address, piece) != Errno.None)
                return false;
            destination = destination[piece.Length..];
            address += (ulong)piece.Length;
        }
        return true;
    }

    private bool WritePiece(Mapping mapping, ulong address, ReadOnlySpan<byte> data)
    {
        ulong offset = address - mapping.Start;
        if (mapping.Pointer is not null)
        {
            // SAFETY: the mapping is entered and covers the piece.
            data.CopyTo(new Span<byte>(mapping.Pointer + offset, data.Length));
        }
        else if (mapping.File is not null)
        {
            if (!mapping.WriteFile(offset, data))
            {
                _log?.Mark(address, (ulong)data.Length); // some of it may be there
                return false;
            }
        }
        else
        {
            return WriteByMessage(address, data); // the client marks what it writes itself
        }
        _log?.Mark(address, (ulong)data.Length);
        return true;
    }

    private bool WriteByMessage(ulong address, ReadOnlySpan<byte> data)
    {
        while (!data.IsEmpty)
        {
            ReadOnlySpan<byte> piece = data[..Math.Min(data.Length, MessageChunk)];
            if ((Twin ?? pump).DmaWrite(address, piece) != Errno.None)
                return false;
            data = data[piece.Length..];
            address += (ulong)piece.Length;
        }
        return true;
    }
}
