namespace Godwit.Machine.Tests;

/// <summary>A file name for a disk image, removed afterwards.</summary>
internal sealed class TempImage : IDisposable
{
    public string FilePath { get; } = Path.Combine(Path.GetTempPath(), $"godwit-{Guid.NewGuid():N}.img");

    public void Dispose() => File.Delete(FilePath);
}
