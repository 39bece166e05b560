namespace Godwit.Vfio.Tests;

/// <summary>Lets a test change a table between the steps of its reader (Mapping/Variants/Stepped.variant).</summary>
internal static class ReaderSteps
{
    [ThreadStatic]
    private static Action? s_writer;

    /// <summary>Does <paramref name="read"/>, and <paramref name="write"/> between any two of its steps.</summary>
    public static void Read(Action read, Action write)
    {
        s_writer = write;
        try
        {
            read();
        }
        finally
        {
            s_writer = null;
        }
    }

    /// <summary>Called by the variants.</summary>
    public static void At()
    {
        if (s_writer is not { } writer)
            return;
        s_writer = null; // the writer reads, too
        writer();
        s_writer = writer;
    }
}
