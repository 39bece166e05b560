using System.Buffers;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Godwit.VfioUser;

/// <summary>A region write of 1 to 8 bytes.</summary>
/// <param name="Region">The region.</param>
/// <param name="Offset">Where in it.</param>
/// <param name="Size">Bytes.</param>
/// <param name="Value">The value; its low <paramref name="Size"/> bytes are written, least significant first.</param>
public readonly record struct RegionWrite(int Region, ulong Offset, int Size, ulong Value);

/// <content>REGION_WRITE_MULTI.</content>
public sealed partial class VfioUserClient
{
    /// <summary>
    /// Does several region writes in order. In as few messages as it takes when <see cref="CanWriteMultiple"/>, else in one each. A write
    /// to a doorbell (<see cref="UseDoorbells"/>) goes by message here, in its order.
    /// </summary>
    /// <param name="writes">The writes.</param>
    /// <param name="posted">Sends without waiting for (or wanting) a reply, except after <see cref="UseDoorbells"/>.</param>
    /// <exception cref="ArgumentOutOfRangeException">A write has no size from 1 to 8, or no region.</exception>
    /// <exception cref="VfioUserRemoteException">The device refused one; those before it are done, those after it are not.</exception>
    public void WriteRegions(ReadOnlySpan<RegionWrite> writes, bool posted)
    {
        foreach (RegionWrite write in writes)
        {
            ArgumentOutOfRangeException.ThrowIfNegative(write.Region);
            ArgumentOutOfRangeException.ThrowIfLessThan(write.Size, 1);
            ArgumentOutOfRangeException.ThrowIfGreaterThan(write.Size, sizeof(ulong));
        }
        posted &= _ioEvents is null;
        int most = _writeMultiple ? (_sendChunk - sizeof(ulong)) / Unsafe.SizeOf<MultiWriteBody>() : 1;
        while (!writes.IsEmpty)
        {
            ReadOnlySpan<RegionWrite> piece = writes[..Math.Min(writes.Length, most)];
            if (_writeMultiple)
                WriteMultiple(piece, posted);
            else
                WriteOne(piece[0], posted);
            writes = writes[piece.Length..];
        }
    }

    private void WriteMultiple(ReadOnlySpan<RegionWrite> writes, bool posted)
    {
        ulong count = (ulong)writes.Length;
        int size = writes.Length * Unsafe.SizeOf<MultiWriteBody>();
        byte[] entries = ArrayPool<byte>.Shared.Rent(size);
        try
        {
            Span<byte> at = entries;
            foreach (RegionWrite write in writes)
            {
                at = at[Wire.Put(at, new MultiWriteBody { Offset = write.Offset, Region = (uint)write.Region, Count = (uint)write.Size, Data = write.Value })..];
            }
            if (posted)
            {
                _connection.Post(Command.RegionWriteMulti, Bytes(in count), entries.AsSpan(0, size));
                return;
            }
            ulong done = 0;
            int length = _connection.Call(
                Command.RegionWriteMulti, "REGION_WRITE_MULTI", Bytes(in count), entries.AsSpan(0, size), [], MemoryMarshal.AsBytes(new Span<ulong>(ref done)), []);
            if (length != sizeof(ulong) || done != count)
                _connection.Violated($"REGION_WRITE_MULTI of {count} writes was answered with {length} bytes that say {done}");
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(entries);
        }
    }

    private void WriteOne(RegionWrite write, bool posted)
    {
        ulong value = write.Value;
        WriteByMessage(write.Region, write.Offset, Bytes(in value)[..write.Size], posted);
    }
}
