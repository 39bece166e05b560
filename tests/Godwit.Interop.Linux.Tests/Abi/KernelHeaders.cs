namespace Godwit.Interop.Linux.Tests.Abi;

/// <summary>User-space headers of a new kernel (Debian's linux-libc-dev of backports), as tests/lab/kernel/headers.sh fetches them.</summary>
internal static class KernelHeaders
{
    /// <summary>Include directories; skips the test, with the reason, where there are none.</summary>
    internal static string[] Find()
    {
        foreach (string root in Roots())
        {
            string include = Path.Combine(root, "usr", "include");
            if (File.Exists(Path.Combine(include, "linux", "iommufd.h")))
                return [include, Path.Combine(include, "x86_64-linux-gnu")];
        }

        Assert.Skip("No headers of a new kernel to check linux/iommufd.h and the newer half of linux/vfio.h with: run tests/lab/kernel/headers.sh, "
            + "or set GODWIT_KERNEL_HEADERS to a directory with usr/include/linux/iommufd.h");
        return [];
    }

    private static IEnumerable<string> Roots()
    {
        if (Environment.GetEnvironmentVariable("GODWIT_KERNEL_HEADERS") is { Length: > 0 } given)
            yield return given;
        for (DirectoryInfo? directory = new(AppContext.BaseDirectory); directory is not null; directory = directory.Parent)
            yield return Path.Combine(directory.FullName, "tests", "lab", "cache", "kernel-headers");
        yield return "/";
    }
}
