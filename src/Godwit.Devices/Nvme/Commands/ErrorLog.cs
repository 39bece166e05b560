using System.Buffers.Binary;

namespace Godwit.Devices;

/// <summary>The last errors, newest first when read (NVM Express Base 1.4, 5.14.1.1). Thread-safe.</summary>
internal sealed class ErrorLog
{
    /// <summary>Bytes of the whole log.</summary>
    public const int Size = IdentifyData.ErrorLogEntries * LogPages.ErrorEntrySize;

    private readonly Lock _gate = new();
    private readonly byte[] _ring = new byte[Size];
    private long _count;

    /// <summary>Errors since the controller was made; continues across migrations.</summary>
    public long Count
    {
        get
        {
            lock (_gate)
                return _count;
        }
    }

    /// <summary>Adds the failure of a command.</summary>
    public void Add(int queue, in NvmeCommand command, NvmeStatus status, bool hasBlock)
    {
        lock (_gate)
        {
            Span<byte> entry = _ring.AsSpan((int)(_count % IdentifyData.ErrorLogEntries) * LogPages.ErrorEntrySize, LogPages.ErrorEntrySize);
            _count++;
            entry.Clear();
            BinaryPrimitives.WriteInt64LittleEndian(entry, _count);
            BinaryPrimitives.WriteUInt16LittleEndian(entry[8..], (ushort)queue);
            BinaryPrimitives.WriteUInt16LittleEndian(entry[10..], command.Id);
            BinaryPrimitives.WriteUInt16LittleEndian(entry[12..], (ushort)(StatusField.Of(status) << 1));
            BinaryPrimitives.WriteUInt16LittleEndian(entry[14..], 0xFFFF); // no parameter location
            if (hasBlock)
                BinaryPrimitives.WriteUInt64LittleEndian(entry[16..], command.StartBlock);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[24..], command.Namespace);
        }
    }

    /// <summary>Fills <paramref name="data"/> (<see cref="Size"/> bytes, zeroed) with the entries, newest first.</summary>
    public void Read(Span<byte> data)
    {
        lock (_gate)
        {
            int entries = (int)Math.Min(_count, IdentifyData.ErrorLogEntries);
            for (int i = 0; i < entries; i++)
            {
                int slot = (int)((_count - 1 - i) % IdentifyData.ErrorLogEntries);
                _ring.AsSpan(slot * LogPages.ErrorEntrySize, LogPages.ErrorEntrySize).CopyTo(data[(i * LogPages.ErrorEntrySize)..]);
            }
        }
    }

    /// <summary>Copies the ring as it lies, for migration.</summary>
    public (long Count, byte[] Ring) Capture()
    {
        lock (_gate)
            return (_count, (byte[])_ring.Clone());
    }

    /// <summary>Takes over a ring of <see cref="Size"/> bytes.</summary>
    public void Restore(long count, ReadOnlySpan<byte> ring)
    {
        lock (_gate)
        {
            _count = count;
            ring.CopyTo(_ring);
        }
    }
}
