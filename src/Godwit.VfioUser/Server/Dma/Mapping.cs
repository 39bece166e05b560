using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// One DMA mapping of the client. Accesses enter and leave it; retiring it waits until the last one has left, after which the memory
/// behind it may go. The memory is reached through <see cref="Pointer"/>, else through <see cref="File"/>, else by messages.
/// </summary>
internal sealed unsafe class Mapping
{
    /// <summary>Set in <see cref="_accesses"/> when retired: the sign.</summary>
    private const int Retired = int.MinValue;

    private int _accesses;

    /// <summary>Creates the mapping over a file, or without one.</summary>
    public Mapping(DmaRange range, DmaAccess access, SharedFile? file, FilePlace place)
    {
        Start = range.Address.Value;
        Last = range.Address.Value + (range.Length - 1);
        Access = access;
        File = file;
        Place = place;
        // SAFETY: the file cache gives only files whose memory covers the range.
        if (file?.Memory is { } memory)
            Pointer = memory.Address + (place.Offset - file.Offset);
    }

    /// <summary>First address.</summary>
    public ulong Start { get; }

    /// <summary>Last address, inside.</summary>
    public ulong Last { get; }

    /// <summary>What the device may do.</summary>
    public DmaAccess Access { get; }

    /// <summary>Memory of <see cref="Start"/> in this process, or null.</summary>
    public byte* Pointer { get; }

    /// <summary>The file behind it; null when every access is a message to the client.</summary>
    public SharedFile? File { get; }

    /// <summary>Where <see cref="Start"/> lies in the file.</summary>
    public FilePlace Place { get; }

    /// <summary>Whether a request for the same mapping once more would change nothing.</summary>
    public bool IsSame(Mapping other) =>
        Start == other.Start && Last == other.Last && Access == other.Access && Place == other.Place && File is null == other.File is null;

    /// <summary>Begins an access. False when the mapping is going away.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public bool TryEnter(object drained)
    {
        if (Interlocked.Increment(ref _accesses) > 0)
            return true;
        Exit(drained);
        return false;
    }

    /// <summary>Ends an access.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Exit(object drained)
    {
        if (Interlocked.Decrement(ref _accesses) == Retired)
            WakeRetirer(drained);
    }

    /// <summary>Lets no further access in. The mapping must have left the table. False when accesses are still inside.</summary>
    public bool Retire() => Interlocked.Add(ref _accesses, Retired) == Retired;

    /// <summary>Waits until the last access to the retired mapping has left.</summary>
    public void AwaitLast(object drained)
    {
        lock (drained)
        {
            while (Volatile.Read(ref _accesses) != Retired)
                Monitor.Wait(drained);
        }
    }

    /// <summary>Reads through the file. False when the file does not reach that far any more.</summary>
    public bool ReadFile(ulong offset, Span<byte> destination)
    {
        // SAFETY: pread writes at most the length given into the pinned span.
        fixed (byte* pointer = destination)
        {
            int done = 0;
            while (done < destination.Length)
            {
                nint now = unistd.pread(File!.Descriptor!, pointer + done, (nuint)(destination.Length - done), (long)(Place.Offset + offset) + done);
                if (now > 0)
                    done += (int)now;
                else if (now == 0 || (Errno)Marshal.GetLastPInvokeError() != Errno.EINTR)
                    return false;
            }
        }
        return true;
    }

    /// <summary>Writes through the file, which must not grow by it: a file that was cut short refuses.</summary>
    public bool WriteFile(ulong offset, ReadOnlySpan<byte> data)
    {
        ulong at = Place.Offset + offset;
        if (stat.Of(File!.Descriptor!).Size < at + (ulong)data.Length)
            return false;
        // SAFETY: pwrite reads at most the length given from the pinned span.
        fixed (byte* pointer = data)
        {
            int done = 0;
            while (done < data.Length)
            {
                nint now = unistd.pwrite(File!.Descriptor!, pointer + done, (nuint)(data.Length - done), (long)at + done);
                if (now > 0)
                    done += (int)now;
                else if (now == 0 || (Errno)Marshal.GetLastPInvokeError() != Errno.EINTR)
                    return false;
            }
        }
        return true;
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void WakeRetirer(object drained)
    {
        lock (drained)
            Monitor.PulseAll(drained);
    }
}

/// <summary>A place in a file.</summary>
internal readonly record struct FilePlace(ulong Device, ulong Inode, ulong Offset);
