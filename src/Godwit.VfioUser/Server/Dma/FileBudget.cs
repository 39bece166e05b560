using System.Globalization;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// How many different files of clients may be in use at once: sealed ones cost a memory mapping of the process each, others a descriptor.
/// A process that has none left of either dies, so clients get half of what there is and one of them a quarter of that. Any thread.
/// </summary>
/// <param name="maxMemory">Files as memory at most.</param>
/// <param name="maxDescriptors">Files as descriptors at most.</param>
/// <param name="whole">What this is a part of, or null.</param>
internal sealed class FileBudget(int maxMemory, int maxDescriptors, FileBudget? whole = null)
{
    /// <summary>Default of vm.max_map_count (Linux, Documentation/admin-guide/sysctl/vm.rst), where it cannot be read.</summary>
    private const int DefaultMapCount = 65530;

    /// <summary>A part of the process's limits that clients may use. Own choice.</summary>
    private const int ShareOfClients = 2;

    /// <summary>A part of that for one client. Own choice: a machine's memory is a handful of files.</summary>
    private const int ShareOfOne = 4;

    private int _memory;
    private int _descriptors;

    /// <summary>All clients of this process together, by its limits at the first look.</summary>
    public static FileBudget Process { get; } = new(MapCount() / ShareOfClients, DescriptorCount() / ShareOfClients);

    /// <summary>A part for one client.</summary>
    public FileBudget ForClient() => new(Math.Max(1, maxMemory / ShareOfOne), Math.Max(1, maxDescriptors / ShareOfOne), this);

    /// <summary>Takes one file in; false when there is no room.</summary>
    public bool TryTake(bool asMemory)
    {
        if (Interlocked.Increment(ref CountOf(asMemory)) <= (asMemory ? maxMemory : maxDescriptors) && whole?.TryTake(asMemory) != false)
            return true;
        Interlocked.Decrement(ref CountOf(asMemory));
        return false;
    }

    /// <summary>A file that was taken in is not in use any more.</summary>
    public void Return(bool asMemory)
    {
        Interlocked.Decrement(ref CountOf(asMemory));
        whole?.Return(asMemory);
    }

    private static int MapCount()
    {
        try
        {
            return int.Parse(File.ReadAllText("/proc/sys/vm/max_map_count"), CultureInfo.InvariantCulture);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or FormatException or OverflowException)
        {
            return DefaultMapCount; // no /proc, or one of another kind
        }
    }

    private static unsafe int DescriptorCount()
    {
        // SAFETY: in this frame.
        rlimit limits = default;
        if (resource.getrlimit(resource.RLIMIT_NOFILE, &limits) != 0)
            LinuxException.ThrowLast("getrlimit", "RLIMIT_NOFILE");
        return (int)Math.Min(limits.rlim_cur, int.MaxValue);
    }

    private ref int CountOf(bool asMemory) => ref asMemory ? ref _memory : ref _descriptors;
}
