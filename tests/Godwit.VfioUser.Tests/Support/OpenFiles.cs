using System.Diagnostics;

namespace Godwit.VfioUser.Tests;

/// <summary>Counts this process's descriptors. The tests of this assembly run one after another for it.</summary>
internal static class OpenFiles
{
    /// <summary>Those that the protocol can carry or make; the runtime opens assemblies and pipes when it likes.</summary>
    public static int Count() => Links().Count();

    /// <summary>Those of a file in memory of that name.</summary>
    public static int Of(string name) => Links().Count(link => link.StartsWith($"/memfd:{name} ", StringComparison.Ordinal));

    /// <summary>How many mappings of shared memory files this process has; the runtime has its own.</summary>
    public static int MappedFiles() => File.ReadLines("/proc/self/maps")
        .Count(line => line.Contains("/memfd:", StringComparison.Ordinal) && !line.Contains("/memfd:doublemapper", StringComparison.Ordinal));

    /// <summary>Waits until the number is back; what is closed on another thread may take a moment.</summary>
    public static void AssertReturnsTo(int expected)
    {
        long start = Stopwatch.GetTimestamp();
        while (Count() > expected && Stopwatch.GetElapsedTime(start) < TestServer.Patience)
            Thread.Yield();
        Assert.True(Count() <= expected, $"{Count()} descriptors are open, {expected} were: {string.Join(' ', Links())}");
    }

    private static IEnumerable<string> Links() => Directory.GetFileSystemEntries("/proc/self/fd")
        .Select(f => new FileInfo(f).LinkTarget ?? "")
        .Where(link => !link.StartsWith("/memfd:doublemapper", StringComparison.Ordinal)
            && (link.StartsWith("socket:", StringComparison.Ordinal) || link.StartsWith("/memfd:", StringComparison.Ordinal)
                || link.StartsWith("anon_inode:", StringComparison.Ordinal) || link.StartsWith("/tmp/", StringComparison.Ordinal)));
}
